"""Static batching, to compare with: the same scheduler, given jobs only while it paints nothing."""

from __future__ import annotations

from collections import deque

from ancestral_server.engine.job import RasterJob
from ancestral_server.engine.queue import JobQueue
from ancestral_server.engine.raster import RasterScheduler, RowStep
from ancestral_server.engine.scheduler import Answers, Wait
from ancestral_server.errors import ServerError


class StaticScheduler:
    """A scheduler that takes what has come when nothing is painted, and nobody else until that is done."""

    def __init__(self, inner: RasterScheduler) -> None:
        self._inner = inner
        self._held: deque[RasterJob] = deque()

    @property
    def answers(self) -> Answers[RasterJob]:
        return self._inner.answers

    @answers.setter
    def answers(self, answers: Answers[RasterJob]) -> None:
        self._inner.answers = answers

    @property
    def queue(self) -> JobQueue[RasterJob]:
        return self._inner.queue

    @property
    def waiting(self) -> int:
        return self._inner.waiting

    @property
    def seats(self) -> int:
        return self._inner.seats

    def submit(self, job: RasterJob, now: float) -> None:
        self._held.append(job)
        self._release(now)

    def next(self, now: float, seat: int) -> RowStep | Wait:
        return self._inner.next(now, seat)

    def pending(self, seat: int) -> bool:
        return self._inner.pending(seat)

    def finish(self, step: RowStep, now: float, seat: int) -> None:
        self._inner.finish(step, now, seat)
        self._release(now)

    def fail(self, step: RowStep, error: Exception, now: float, seat: int) -> None:
        self._inner.fail(step, error, now, seat)
        self._release(now)

    def abandon(self, error: ServerError, seat: int | None = None) -> None:
        self._inner.abandon(error, seat)
        if seat is None:
            self._inner.answers.fail(self._held, error)
            self._held.clear()

    def _release(self, now: float) -> None:
        """Hand on as many samples as there are slots, if none is in use."""
        inner = self._inner
        if inner.used or inner.queue:
            return
        rows = 0
        while self._held and (not rows or rows + self._held[0].rows <= inner.capacity):
            job = self._held.popleft()
            rows += job.rows
            inner.submit(job, now)
