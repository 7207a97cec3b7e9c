"""A batch loop whose short runs the event loop takes itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ancestral_server.engine.batch import Piece, stack
from ancestral_server.engine.costs import Costs
from ancestral_server.engine.job import OneShotJob, Priority
from ancestral_server.engine.policy import CALL_SECONDS
from ancestral_server.engine.spread import SpreadBatchLoop
from ancestral_server.errors import Internal, Overdue, ServerError
from ancestral_server.runtime.program import OneShotProgram

# A run that takes no longer than this may hold up the event loop: handing it to a thread and back costs about as much.
HERE_SECONDS = 0.002
# For a crowd it may take this share of what the event loop needs for the calls themselves, up to a bound.
HERE_SHARE = 0.2
LONGEST_HERE_SECONDS = 0.005


class QuickBatchLoop(SpreadBatchLoop):
    """Where runs are short (`lighten`), no thread has to be woken for a call and none for its answer, which together
    take longer than such a run. `_here` says that the event loop has the lane's turns; the lane's thread keeps still
    meanwhile. Longer runs, and what fails here for a reason of ours, are the thread's as ever.

    Costs are of runs wherever they were; but what runs here took decides where the next one is, since on threads of
    their own, beside a busy event loop, they may take twice as long.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._here_costs = Costs()
        self._here = False
        # The thread sleeps for want of work.
        self._idle = False
        # Within a turn here, which the thread must not disturb even if the lane closes.
        self._turning = False
        # The next turn here: about to come, or when the wait for others is over.
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: BaseException | None = None

    @property
    def quick(self) -> bool:
        """Whether runs are so short that the event loop might take them itself."""
        return self._run_seconds(1) <= HERE_SECONDS / 2

    def lighten(self, program: OneShotProgram) -> None:
        """Take short runs here too."""
        super().lighten(program)
        self._here_costs = self._light_costs.copy()

    def ask(self, job: OneShotJob) -> Coroutine[Any, Any, OneShotJob]:
        try:
            alone = self._run_alone(job)
        except Overdue as error:
            # In its turn it would be as long again.
            return _failed(Internal(f"{self.name}: the run failed: {error}"))
        return _answered(job) if alone else super().ask(job)

    def _run_alone(self, job: OneShotJob) -> bool:
        """Run a job that finds nobody before it and need not wait for company; False if it has to take its turn.

        A lone call would spend as long on the queue, which is made for many, as on its run. Whatever goes wrong here,
        the job takes its turn then, where it is known what to do about it.
        """
        program = self._light
        if program is None or not self._crowd.alone or job.priority is Priority.BATCH:
            return False
        began = time.monotonic()
        if self._arrivals.coming(began):
            return False
        size = self._size(job.rows)
        if size < job.rows or not self._begin_alone(self._here_costs.seconds(size), job.deadline - began):
            return False
        try:
            form = program.form(job.wanted)
            inputs = stack(form, [Piece(job, 0, job.rows)], size)
            gathered = time.monotonic()
            outputs = form.run(inputs, job.wanted)
            ran = time.monotonic()
        except Overdue:
            raise
        except Exception:  # noqa: BLE001 - happens again in its turn, or was a passing want of memory
            return False
        finally:
            self._end_alone()
        job.pieces = {meaning: {0: outputs[meaning][: job.rows]} for meaning in job.wanted}
        job.taken = job.done = job.rows
        job.started, job.finished, job.answered = began, ran, True
        # Once the answer is on its way, which nothing of this changes; and before any call that comes then.
        asyncio.get_running_loop().call_soon(self._account_alone, job, size, gathered)
        return True

    def _account_alone(self, job: OneShotJob, size: int, gathered: float) -> None:
        """Count and learn from a job that ran alone."""
        self._cores.called(job.submitted)
        self._costs.learn(size, job.compute_seconds)
        self._here_costs.learn(size, job.compute_seconds)
        self._crowd.seen(1)
        with self._lock:
            self.metrics.batch_size.observe(job.rows)
        self.metrics.record_request(job.queue_seconds, job.compute_seconds)
        self.stats.ran(job.rows, 1, began=job.started, gathered=gathered, ran=job.finished, done=job.finished)
        self.stats.answered([job])

    def _begin_alone(self, cost: float, remaining: float) -> bool:
        """Take the lane's turn, if it is free and a run that costs so many seconds is short and in time."""
        with self._lock:
            free = self._idle and not (self._here or self._queue or self._closing or self._trouble)
            self._turning = bool(free) and self.healthy and cost <= HERE_SECONDS and 2 * cost < remaining
            return self._turning

    def _end_alone(self) -> None:
        with self._lock:
            self._turning = False
            if self._closing:
                self._changed.notify_all()

    def submit(self, job: OneShotJob) -> None:
        super().submit(job)
        if not self._here or self._soon:
            return
        if self._timer is not None:
            if len(self._queue) < self._complete:
                return
            self._timer.cancel()
        self._turn_here()

    def _arrived(self) -> None:
        # Only a thread that sleeps for want of work can be left asleep.
        idle = self._idle and not self._here and len(self._queue) == 1 and self._trouble is None
        if idle and self._short():
            self._here = True
            self._waits_since = self._last_arrival
        if not self._here:
            super()._arrived()

    def _short(self) -> bool:
        """Whether the next run, of those who are queued or may be coming, is short and somebody waits for it."""
        # Bulk keeps a thread busy for long, and the event loop with messages meanwhile.
        if self._queue.rows[Priority.BATCH]:
            return False
        calls = min(max(len(self._queue), self._crowd.known), self._buckets[-1])
        longest = min(LONGEST_HERE_SECONDS, max(HERE_SECONDS, HERE_SHARE * calls * CALL_SECONDS))
        return self._light is not None and self._here_costs.seconds(self._coming_size()) <= longest

    def _coming_size(self) -> int:
        """The size of the next run, as far as it is known whom it will be for."""
        return self._bucket(max(self._queue.total_rows, min(self._crowd.known, self._enough)))

    def _company(self) -> int:
        # Here nothing else goes on during a run.
        return self._crowd.known if self._here else super()._company()

    def _turn_here(self) -> None:
        self._soon, self._timer = False, None
        try:
            with self._lock:
                if not self._here:
                    # The lane closes: the thread answers those who are queued.
                    return
                seconds = self._seconds_to_wait()
                if seconds > 0 and self._queue:
                    self._timer = asyncio.get_running_loop().call_later(seconds, self._turn_here)
                    return
                if not self._short():
                    # So many came during the wait.
                    self._here = False
                    self._changed.notify_all()
                    return
                self._turning = True
                self._drop_departed()
                self._take(self._hands[0])
            self._run_all(self._hands[0], self._light or self._program, self._costs, self._here_costs)
        except BaseException as error:  # noqa: BLE001 - the thread raises it, answers and recovers
            self._trouble = error
        with self._lock:
            self._turning = False
            self._waits_since = time.monotonic()
            if self._queue and self._trouble is None and not self._closing and self._short():
                # Not at once: what else the loop has to do comes first, and may join.
                self._soon = True
                asyncio.get_running_loop().call_soon(self._turn_here)
                return
            self._here = False
            if self._queue or self._trouble is not None or self._closing:
                self._changed.notify_all()

    def _post(self, jobs: Sequence[OneShotJob], message: Callable[[], None]) -> None:
        # Helpers answer too, whoever has the turns.
        if self._here and threading.current_thread() not in self._threads:
            message()
        else:
            super()._post(jobs, message)

    # ---- the lane's thread

    def _wait_for_work(self) -> None:
        while True:
            while self._turning or ((self._here or not self._queue) and self._trouble is None and not self._closing):
                self._idle = True
                self._sleep(1, None)
                self._idle = False
            if self._trouble is not None or self._closing or not self._hand_over():
                break
        # Where the lane is closing, what is queued is the thread's to answer.
        self._here = False
        if (trouble := self._trouble) is not None:
            self._trouble = None
            raise trouble

    def _hand_over(self) -> bool:
        """Let the event loop have the turn, if the run is short. The lock is held.

        A crowd that keeps the queue filled would else keep it with the thread for ever, once a run took long.
        """
        if not self._short():
            if not self._queue.rows[Priority.BATCH]:
                self._here_costs.doubt(self._coming_size())
            return False
        # Before the post: the event loop looks at these as soon as it has it.
        self._soon = self._here = True
        self._waits_since = time.monotonic()
        try:
            next(iter(self._queue)).future.get_loop().call_soon_threadsafe(self._turn_here)
        except RuntimeError:  # the event loop is gone
            self._soon = self._here = False
        return self._here


async def _answered(job: OneShotJob) -> OneShotJob:
    return job


async def _failed(error: ServerError) -> OneShotJob:
    raise error
