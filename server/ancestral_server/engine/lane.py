"""What every lane has: a bounded queue, one thread or several, and the promise that every waiter gets an answer."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from ancestral_server.engine.admission import Limits, check_queue
from ancestral_server.engine.answers import post, settle
from ancestral_server.engine.costs import Costs
from ancestral_server.engine.failures import Failures
from ancestral_server.engine.job import Job
from ancestral_server.engine.niceness import RUNS, give_way
from ancestral_server.engine.queue import JobQueue
from ancestral_server.engine.stats import LaneStats
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, Overloaded, ServerError, Unavailable
from ancestral_server.metrics import LaneMetrics

J = TypeVar("J", bound=Job)

log = structlog.get_logger()


class Lane(ABC, Generic[J]):
    """Owns one role of one model version. Subclasses say what a turn of the loop is; `workers` threads take turns."""

    def __init__(self, name: str, metrics: LaneMetrics, limits: Limits, workers: int = 1) -> None:
        self.name = name
        self.metrics = metrics
        self.stats = LaneStats()
        # Whether calls are taken. `on_health` is called with the lane, from a thread of it, when that changes.
        self.healthy = True
        self.on_health: Callable[[Lane[Any]], None] = lambda lane: None
        self._limits = limits
        self._queue: JobQueue[J] = JobQueue()
        self._last_arrival = 0.0
        # A thread sleeps until this many requests are queued; 0 while none does, so that arrivals need not wake any.
        self._wake_at = 0
        self._sleeping = 0
        # Taken by itself where nobody waits: the condition's own way to take it is written in Python.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = False
        self._costs = Costs()
        self._failures = Failures(workers)
        # Threads beside the workers, without which the lane does as well.
        self._helpers = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        # Asked for at a scrape, rather than told at every change; of the queue alone, since what held the lane would
        # outlive it.
        queue = self._queue
        self.metrics.queued.set_function(lambda: queue.total_rows)
        self._threads = [
            threading.Thread(target=self._main, args=(worker,), name=f"lane {self.name} {worker}", daemon=True)
            for worker in range(self._failures.workers + self._helpers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop at the next boundary; whoever still waits hears Unavailable."""
        with self._changed:
            self._closing = True
            self._wake_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _wake_all(self) -> None:
        """Wake every thread that sleeps. The lock is held."""
        self._changed.notify_all()

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
        """Admit the job, or raise what it is refused with: Unavailable, Overloaded or Infeasible."""
        with self._lock:
            if self._closing or not self.healthy:
                raise Unavailable(self.name, self._closed)
            if not self._surely_fits(job):
                self._check(job)
            self._queue.add(job)
            self._last_arrival = job.submitted
            self._arrived()

    def _arrived(self) -> None:
        """Wake who sleeps until so many requests are queued. The lock is held."""
        if self._wake_at and len(self._queue) >= self._wake_at:
            self._changed.notify_all()

    def _check(self, job: J) -> None:
        """Refuse before any work is done what cannot be ready in time or would wait too long. The lock is held."""
        queue = self._queue
        ahead = queue.ahead(job.rows, job.priority, self._quantum)
        if not math.isinf(job.deadline):
            remaining, needed = job.deadline - time.monotonic(), self._needed_seconds(job.rows, ahead)
            if remaining < needed:
                self._costs.relent(idle=not queue and not self._running)
                self.metrics.refused("deadline")
                raise Infeasible(
                    f"deadline: {max(remaining, 0):.3g} s remain, {self.name} needs at least {needed:.3g} s for "
                    f"{job.rows} images, {ahead} queued ahead of them",
                    self.name,
                )
        try:
            check_queue(
                self.name, queue, job, ahead, self._limits, self._queue_seconds, self._batch_seconds, self._row_seconds
            )
        except Overloaded:
            self.metrics.refused("queue_full")
            raise

    # The rows of a job's turn: where the queue is longer, no more of it is worked off before the others'.
    _quantum: int

    def _surely_fits(self, job: J) -> bool:
        """A cheap yes for the calls of every day; False means to look closer. The lock is held."""
        return False

    @abstractmethod
    def _needed_seconds(self, rows: int, ahead: int) -> float:
        """The least seconds until a job of so many rows could be answered; 0 before anything was measured."""

    @abstractmethod
    def _queue_seconds(self, rows: int) -> float:
        """Seconds of work that so many waiting rows are, in full batches."""

    @property
    @abstractmethod
    def _batch_seconds(self) -> float:
        """Seconds of work that have to wait for the lane to be kept busy."""

    @property
    @abstractmethod
    def _row_seconds(self) -> float:
        """Seconds of work that one row is in a full batch."""

    @property
    @abstractmethod
    def _running(self) -> bool:
        """Whether any row is being worked on."""

    # ---- the lane's threads

    @abstractmethod
    def _turn(self, worker: int) -> None:
        """Admit, run, retire, once; wait where there is nothing to do."""

    @abstractmethod
    def _in_hand(self, worker: int) -> Iterable[J]:
        """Jobs of a worker that are not answered; forgets them."""

    @abstractmethod
    def _probe(self) -> None:
        """Run once on nothing, to see whether the program still works."""

    _niceness = RUNS

    def _main(self, worker: int) -> None:
        give_way(self._niceness)
        while not self._closing:
            try:
                while not self._closing:
                    self._turn(worker)
            except BaseException as error:  # noqa: BLE001 - a thread that ends takes its callers' answers with it
                # The loops contain failures of a run themselves; this is a bug of ours, or worse.
                with contextlib.suppress(BaseException):
                    self._recover(worker, error)
        self._fail([*self._in_hand(worker), *self._drop_queue()], Unavailable(self.name, self._closed))

    def _recover(self, worker: int, error: BaseException) -> None:
        """Answer everybody, say so, and begin anew after a while, once a run shows that the program works."""
        self._failures.add(worker)
        self._give_up(
            list(self._in_hand(worker)), Internal(f"{self.name} failed: {str(error) or type(error).__name__}")
        )
        self._set_down(worker, True)
        if not self.healthy:
            # Not begun, so it is safe and worthwhile to ask again: another replica, or this one in a moment.
            self._fail(self._drop_queue(), Unavailable(self.name, self._closed))
        self.metrics.restarts.inc()
        try:
            log.error("lane failed", lane=self.name, worker=worker, failures=self._failures.of(worker), exc_info=error)
            while not self._works_after(self._failures.delay(worker)):
                self._failures.add(worker)
        finally:
            self._set_down(worker, False)

    def _works_after(self, seconds: float) -> bool:
        """Whether a run succeeds after so long a pause; True without one if the lane closes."""
        with self._changed:
            if self._changed.wait_for(lambda: self._closing, seconds):
                return True
        try:
            self._probe()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the lane stays down
            log.warning("lane stays down", lane=self.name, reason=str(error))
            return False
        return True

    def _set_down(self, worker: int, down: bool) -> None:
        with self._changed:
            healthy = self._failures.set_down(worker, down)
            changed, self.healthy = healthy != self.healthy, healthy
        if changed:
            self.on_health(self)

    @property
    def _closed(self) -> str:
        return f"{self.name} is being shut down" if self._closing else f"{self.name} has failed and is being restarted"

    def _wait_for_work(self) -> None:
        """Sleep until something is queued or the lane closes. The lock is held."""
        while not self._queue and not self._closing:
            self._sleep(1, None)

    def _sleep(self, wake_at: int, seconds: float | None) -> None:
        self._wake_at = wake_at
        self._sleeping += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._sleeping -= 1
            if not self._sleeping:
                self._wake_at = 0

    def _take_rows(self, job: J, rows: int) -> None:
        """Rows of a queued job go to work. The lock is held."""
        if job.taken == 0:
            job.started = time.monotonic()
        self._queue.take(job, rows)

    def _drop_departed(self) -> None:
        """Forget the cancelled and answer the expired before any work is done for them. The lock is held."""
        if gone := self._queue.departed(time.monotonic()):
            self._expire(gone)

    def _expire(self, jobs: Iterable[J]) -> None:
        """Answer those whom somebody may still be waiting for, and count all that nobody had answered."""
        left = [job for job in jobs if not job.answered]
        late = [job for job in left if not job.cancelled]
        self.metrics.dropped("cancelled", len(left) - len(late))
        self.metrics.dropped("expired", len(late))
        for job in left:
            job.answered = job.cancelled
        self._fail(late, DeadlineExceeded(f"the deadline passed before {self.name} had finished"))

    def _give_up(self, jobs: Sequence[J], error: ServerError) -> None:
        """Answer jobs with an error, and nothing more of them is run."""
        with self._changed:
            self._queue.remove(jobs)
            self._fail(jobs, error)

    def _drop_queue(self) -> list[J]:
        with self._changed:
            return self._queue.clear()

    # ---- answers: one post to the event loop per batch

    def _finish(self, jobs: Sequence[J]) -> None:
        now = time.monotonic()
        for job in jobs:
            job.finished = now
            job.answered = True
        self.stats.answered(jobs)
        self._post(jobs, partial(settle, jobs, None))

    def _fail(self, jobs: Iterable[J], error: ServerError) -> None:
        jobs = list(jobs)
        # Not twice those who fail with another worker too, which has other rows of them.
        self.stats.failed([job for job in jobs if not job.answered])
        for job in jobs:
            job.answered = True
        self._post(jobs, partial(settle, jobs, error))

    def _post(self, jobs: Sequence[J], message: Callable[[], None]) -> None:
        post(jobs, message)
