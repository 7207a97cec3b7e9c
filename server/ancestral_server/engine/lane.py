"""What every lane has: a bounded queue, one thread or several, and the promise that every waiter gets an answer."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

import structlog

from ancestral_server.engine.costs import Costs
from ancestral_server.engine.job import Job
from ancestral_server.engine.stats import LaneStats
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, Overloaded, ServerError, Unavailable
from ancestral_server.metrics import LaneMetrics

J = TypeVar("J", bound=Job)

log = structlog.get_logger()


class Lane(ABC, Generic[J]):
    """Owns one role of one model version. Subclasses say what a turn of the loop is; `workers` threads take turns."""

    def __init__(self, name: str, metrics: LaneMetrics, max_queued: int, workers: int = 1) -> None:
        self.name = name
        self.metrics = metrics
        self.stats = LaneStats()
        self._max_queued = max_queued
        self._queue: deque[J] = deque()
        self._queued_rows = 0
        # Asked for at a scrape, rather than told at every change.
        metrics.queued.set_function(lambda: self._queued_rows)
        self._last_arrival = 0.0
        # A thread sleeps until this many requests are queued; 0 while none does, so that arrivals need not wake any.
        self._wake_at = 0
        self._sleeping = 0
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._costs = Costs()
        self._threads = [
            threading.Thread(target=self._main, args=(worker,), name=f"lane {name} {worker}", daemon=True)
            for worker in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop at the next boundary; whoever still waits hears Unavailable."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

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
            self._check_deadline(job)
            # An empty queue takes any job: a single one may be larger than the bound.
            if self._queue and self._queued_rows + job.rows > self._max_queued:
                retry = max(0.001, self._work_seconds(self._queued_rows))
                raise Overloaded(
                    f"{self.name}: {self._queued_rows} images are queued, {job.rows} more would exceed the limit of "
                    f"{self._max_queued}",
                    retry,
                )
            self._queue.append(job)
            self._queued_rows += job.rows
            self._last_arrival = job.submitted
            if self._wake_at and len(self._queue) >= self._wake_at:
                self._changed.notify_all()

    def _check_deadline(self, job: J) -> None:
        """Refuse before any work is done what cannot be ready in time."""
        if math.isinf(job.deadline):
            return
        remaining = job.deadline - time.monotonic()
        needed = self._needed_seconds(job)
        if remaining < needed:
            self._costs.relent()
            raise Infeasible(
                f"deadline: {max(remaining, 0):.3g} s remain, {self.name} needs at least {needed:.3g} s for "
                f"{job.rows} images"
            )

    @abstractmethod
    def _needed_seconds(self, job: J) -> float:
        """The least seconds until a job could be answered if it were admitted now; 0 before anything was measured."""

    @abstractmethod
    def _work_seconds(self, rows: int) -> float:
        """Seconds of work that so many rows are, in full batches."""

    # ---- the lane's threads

    @abstractmethod
    def _turn(self, worker: int) -> None:
        """Admit, run, retire, once; wait where there is nothing to do."""

    @abstractmethod
    def _in_hand(self, worker: int) -> Iterable[J]:
        """Jobs of a worker that are not answered; forgets them."""

    def _main(self, worker: int) -> None:
        while not self._closing:
            try:
                self._turn(worker)
            except Exception as error:
                # The loops contain failures of a run themselves; this is a bug of ours. Answer everybody and go on.
                log.exception("lane failed", lane=self.name)
                self._fail([*self._in_hand(worker), *self._drop_queue()], Internal(f"{self.name} failed: {error}"))
        self._fail(
            [*self._in_hand(worker), *self._drop_queue()], Unavailable(self.name, f"{self.name} is being shut down")
        )

    def _wait_for_work(self) -> None:
        """Sleep until something is queued or the lane closes. The lock is held."""
        while not self._queue and not self._closing:
            self._sleep(1, None)

    def _sleep(self, wake_at: int, seconds: float | None) -> None:
        self._wake_at = wake_at
        self._sleeping += 1
        self._changed.wait(seconds)
        self._sleeping -= 1
        if not self._sleeping:
            self._wake_at = 0

    def _take_rows(self, job: J, rows: int) -> None:
        """Account for rows that leave the queue. The lock is held."""
        if job.taken == 0:
            job.started = time.monotonic()
        job.taken += rows
        self._unqueue(rows)

    def _unqueue(self, rows: int) -> None:
        """Account for rows that are no longer in the queue. The lock is held."""
        self._queued_rows -= rows

    def _drop_departed(self) -> None:
        """Forget the cancelled and answer the expired before any work is done for them. The lock is held."""
        now = time.monotonic()
        if not any(job.departed(now) for job in self._queue):
            return
        expired = [job for job in self._queue if job.departed(now)]
        self._queue = deque(job for job in self._queue if not job.departed(now))
        self._unqueue(sum(job.rows - job.taken for job in expired))
        self._expire(expired)

    def _expire(self, jobs: Iterable[J]) -> None:
        late = [job for job in jobs if not job.cancelled and not job.answered]
        self._fail(late, DeadlineExceeded(f"the deadline passed before {self.name} had finished"))

    def _drop_queue(self) -> list[J]:
        with self._changed:
            jobs = list(self._queue)
            self._queue.clear()
            self._unqueue(self._queued_rows)
        return jobs

    # ---- answers: one post to the event loop per batch

    def _finish(self, jobs: Iterable[J]) -> None:
        now = time.monotonic()
        jobs = list(jobs)
        for job in jobs:
            job.finished = now
            job.answered = True
        self.stats.answered(jobs)
        post(jobs, partial(_settle, jobs, None))

    def _fail(self, jobs: Iterable[J], error: ServerError) -> None:
        jobs = list(jobs)
        for job in jobs:
            job.answered = True
        self.stats.failed(jobs)
        post(jobs, partial(_settle, jobs, error))


def post(jobs: Sequence[Job], message: Callable[[], None]) -> None:
    """Run `message` about these jobs on their event loop."""
    if not jobs:
        return
    try:
        jobs[0].future.get_loop().call_soon_threadsafe(message)
    except RuntimeError:
        # The event loop is gone, and with it everybody who could have waited.
        log.warning("nobody is told: the event loop is closed", jobs=len(jobs))


def _settle(jobs: Sequence[Job], error: ServerError | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job)
        else:
            job.future.set_exception(error)
