"""What every lane has: a bounded queue, a thread, and the promise that every waiter gets an answer."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import structlog

from ancestral_server.engine.job import Job
from ancestral_server.errors import DeadlineExceeded, Internal, Overloaded, ServerError, Unavailable
from ancestral_server.metrics import LaneMetrics

J = TypeVar("J", bound=Job)

log = structlog.get_logger()


class Lane(ABC, Generic[J]):
    """Owns one role of one model version. Subclasses say what a turn of the loop is."""

    def __init__(self, name: str, metrics: LaneMetrics, max_queued: int) -> None:
        self.name = name
        self.metrics = metrics
        self._max_queued = max_queued
        self._queue: deque[J] = deque()
        self._queued_rows = 0
        self._last_arrival = 0.0
        # The thread sleeps until this many requests are queued; 0 while it is awake, so that arrivals need not wake it.
        self._wake_at = 0
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        # Seconds of work per row, a running mean, to tell the refused when to come back.
        self._seconds_per_row = 0.0
        self._thread = threading.Thread(target=self._main, name=f"lane {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop at the next boundary; whoever still waits hears Unavailable."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # ---- the event loop's side

    async def ask(self, job: J) -> J:
        """Admit the job and wait for it. ServerError if it is refused, expires or fails."""
        self.submit(job)
        try:
            await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            raise
        self.metrics.record_request(job.queue_seconds, job.compute_seconds)
        return job

    def submit(self, job: J) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable(self.name, f"{self.name} is being shut down")
            # An empty queue takes any job: a single one may be larger than the bound.
            if self._queue and self._queued_rows + job.rows > self._max_queued:
                retry = max(0.001, self._queued_rows * self._seconds_per_row)
                raise Overloaded(
                    f"{self.name}: {self._queued_rows} images are queued, {job.rows} more would exceed the limit of "
                    f"{self._max_queued}",
                    retry,
                )
            self._queue.append(job)
            self._queued_rows += job.rows
            self._last_arrival = job.submitted
            if self._wake_at and len(self._queue) >= self._wake_at:
                self._changed.notify()

    # ---- the lane's thread

    @abstractmethod
    def _turn(self) -> None:
        """Admit, run, retire, once; wait where there is nothing to do."""

    @abstractmethod
    def _in_hand(self) -> Iterable[J]:
        """Jobs that left the queue and are not answered; forgets them."""

    def _main(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:
                # The loops contain failures of a run themselves; this is a bug of ours. Answer everybody and go on.
                log.exception("lane failed", lane=self.name)
                self._fail([*self._in_hand(), *self._drop_queue()], Internal(f"{self.name} failed: {error}"))
        self._fail([*self._in_hand(), *self._drop_queue()], Unavailable(self.name, f"{self.name} is being shut down"))

    def _wait_for_work(self) -> None:
        """Sleep until something is queued or the lane closes. The lock is held."""
        while not self._queue and not self._closing:
            self._sleep(1, None)

    def _sleep(self, wake_at: int, seconds: float | None) -> None:
        self._wake_at = wake_at
        self._changed.wait(seconds)
        self._wake_at = 0

    def _take_rows(self, job: J, rows: int) -> None:
        """Account for rows that leave the queue. The lock is held."""
        if job.taken == 0:
            job.started = time.monotonic()
        job.taken += rows
        self._queued_rows -= rows
        self.metrics.queued.set(self._queued_rows)

    def _drop_departed(self) -> None:
        """Forget the cancelled and answer the expired before any work is done for them. The lock is held."""
        now = time.monotonic()
        if not any(job.departed(now) for job in self._queue):
            return
        expired = [job for job in self._queue if job.departed(now)]
        self._queue = deque(job for job in self._queue if not job.departed(now))
        self._queued_rows -= sum(job.rows - job.taken for job in expired)
        self._expire(expired)

    def _expire(self, jobs: Iterable[J]) -> None:
        late = [job for job in jobs if not job.cancelled]
        self._fail(late, DeadlineExceeded(f"the deadline passed before {self.name} had finished"))

    def _drop_queue(self) -> list[J]:
        with self._changed:
            jobs = list(self._queue)
            self._queue.clear()
            self._queued_rows = 0
        return jobs

    def _learn(self, seconds: float, rows: int) -> None:
        cost = seconds / rows
        self._seconds_per_row = cost if not self._seconds_per_row else 0.9 * self._seconds_per_row + 0.1 * cost

    # ---- answers: one post to the event loop per batch

    def _finish(self, jobs: Iterable[J]) -> None:
        now = time.monotonic()
        jobs = list(jobs)
        for job in jobs:
            job.finished = now
        _post(jobs, None)

    def _fail(self, jobs: Iterable[J], error: ServerError) -> None:
        _post(list(jobs), error)


def _post(jobs: list[J], error: ServerError | None) -> None:
    if not jobs:
        return
    try:
        jobs[0].future.get_loop().call_soon_threadsafe(_settle, jobs, error)
    except RuntimeError:
        # The event loop is gone, and with it everybody who could have waited.
        log.warning("answers dropped: the event loop is closed", jobs=len(jobs))


def _settle(jobs: list[J], error: ServerError | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job)
        else:
            job.future.set_exception(error)
