"""A lane: a scheduler that decides, a runner that has its turns taken, a supervisor, and the promise that everybody is
answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from ancestral_server.engine.job import Job
from ancestral_server.engine.runners import Runner
from ancestral_server.engine.scheduler import IDLE, Answers, Clock, Scheduler, Step, Wait
from ancestral_server.engine.stats import LaneStats
from ancestral_server.engine.supervisor import Supervisor
from ancestral_server.errors import Infeasible, Internal, OutOfMemory, Overloaded, ServerError, Unavailable

J = TypeVar("J", bound=Job)
S = TypeVar("S", bound=Step)

log = structlog.get_logger()

# What most verbs decide about jobs. Nothing is ever added to it.
_NONE: Answers[Any] = Answers()


class Lane(Generic[J]):
    """A queue of one role of one model version. `submit` is the event loop's; `turn` is the runner's.

    probe: runs once on nothing, to see whether the program still works; raises if it does not.
    called: told the time of every call that comes, time.monotonic() seconds.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler[J, S],
        runner: Runner,
        *,
        probe: Callable[[], None],
        stats: LaneStats,
        called: Callable[[float], None] = lambda now: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.name = name
        # Whatever its steps are: the lane hands them back to it.
        self.scheduler: Scheduler[J, Any] = scheduler
        self.stats = stats
        # Told of the lane, by whoever has a turn of it, when `healthy` changes.
        self.on_health: Callable[[], None] = lambda: None
        self._runner = runner
        self._probe = probe
        self._called = called
        self._clock = clock
        self._supervisor = Supervisor(scheduler.seats)
        # Held around every call of the scheduler and the supervisor.
        self._lock = threading.Lock()
        self._closing = False
        # Turns that go on, and the news that one has ended while the lane closes.
        self._turns = 0
        self._turned = threading.Condition(self._lock)

    # ---- the event loop's side

    @property
    def healthy(self) -> bool:
        """Whether calls are taken."""
        return self._supervisor.healthy

    @property
    def queued(self) -> int:
        """How many requests wait for a run."""
        return self.scheduler.waiting

    @property
    def turns(self) -> int:
        """How many turns go on; while nothing is queued, runs."""
        return self._turns

    @property
    def seats(self) -> int:
        """How many runs may go on at the same time."""
        return self.scheduler.seats

    def start(self) -> None:
        self._runner.start(self)

    def submit(self, job: J) -> None:
        """Admit the job, or raise what it is refused with: Unavailable, Overloaded or Infeasible. Its future is done
        when the job is: see `Job.answer` and `Job.events`.
        """
        now = self._clock()
        with self._lock:
            if self._closing or not self._supervisor.healthy:
                raise Unavailable(self.name, self._why_closed)
            try:
                self.scheduler.submit(job, now)
            except Overloaded:
                self.stats.refused("queue_full")
                raise
            except Infeasible:
                self.stats.refused("deadline")
                raise
        self._called(now)
        self._runner.wake()

    def decide(self, decision: Callable[[float], None]) -> None:
        """Have the scheduler decide something beside its verbs, given the time; whom that answers is told."""
        with self._lock:
            decision(self._clock())
            answers = self._take_answers()
        self._tell(answers)

    def move(self, runner: Runner) -> None:
        """Have the turns taken by another runner from now on. Called by the one that takes them, between two."""
        with self._lock:
            if self._closing:
                return
            self._runner = runner
        runner.start(self)

    def close(self) -> None:
        """Stop at the next boundary; whoever still waits hears Unavailable. Blocks until running work ends."""
        with self._lock:
            self._closing = True
        self._runner.close()
        with self._turned:
            self._turned.wait_for(lambda: not self._turns)
            self.scheduler.abandon(Unavailable(self.name, self._why_closed))
            answers = self._take_answers()
        self._tell(answers)

    @property
    def _why_closed(self) -> str:
        return f"{self.name} is being shut down" if self._closing else f"{self.name} has failed and is being restarted"

    # ---- the runner's side

    def turn(self, seat: int = 0) -> Wait | None:
        """Decide, run, answer, once; None if there may be more to do at once, else how long there is not.

        Never raises: what fails outside of a run takes the seat down, answers whom that concerns, and has the seat
        tried again later.
        """
        with self._lock:
            if self._closing:
                return IDLE
            self._turns += 1
        owed: list[Answers[J]] = []
        try:
            pause = self._supervisor.pause(seat, self._clock())
            return self._run(seat, owed) if pause is None else self._try_again(seat, pause)
        except BaseException as error:  # noqa: BLE001 - whoever takes the turns must go on, and every caller hear
            with contextlib.suppress(BaseException):
                self._recover(seat, owed, error)
            return None
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        with self._lock:
            self._turns -= 1
            if self._closing:
                self._turned.notify_all()

    def _run(self, seat: int, owed: list[Answers[J]]) -> Wait | None:
        """The three verbs. owed: what is decided goes in there before it is told, for whoever comes after a failure."""
        with self._lock:
            step = self.scheduler.next(self._clock(), seat)
            answers = self._take_answers()
            more = bool(self.scheduler.waiting)
        owed.append(answers)
        self._tell(answers)
        if isinstance(step, Wait):
            return step
        if more:
            # For another seat, where there is one that idles.
            self._runner.wake()
        try:
            step.run(self._clock)
        except Exception as error:  # noqa: BLE001 - a run may raise anything, and its callers hear of it
            with self._lock:
                self.scheduler.fail(step, error, self._clock(), seat)
                answers, pending = self._take_answers(), self.scheduler.pending(seat)
            owed.append(answers)
            if isinstance(error, OutOfMemory | MemoryError):
                self.stats.out_of_memory()
        else:
            ran = self._clock()
            with self._lock:
                self.scheduler.finish(step, ran, seat)
                answers, pending = self._take_answers(), self.scheduler.pending(seat)
            owed.append(answers)
            self.stats.ran(step, ran, self._clock())
        self._tell(answers)
        return None if pending else IDLE

    def _recover(self, seat: int, owed: Sequence[Answers[J]], error: BaseException) -> None:
        """Take a seat down after a failure of ours, or worse, and answer everybody whom that concerns."""
        failed = Internal(f"{self.name} failed: {str(error) or type(error).__name__}")
        with self._lock:
            was_healthy = self._supervisor.healthy
            failures = self._supervisor.failed(seat, self._clock())
            self._abandon(failed, seat)
            if not self._supervisor.healthy:
                # Not begun, so it is safe and worthwhile to ask again: another replica, or this one in a moment.
                self._abandon(Unavailable(self.name, self._why_closed))
            answers = self._take_answers()
        for decided in owed:
            self._post([*((job, failed) for job in decided.finished), *decided.failed])
        self._tell(answers)
        if was_healthy and not self.healthy:
            self.on_health()
        # For another seat: nothing may wait until this one is up again.
        self._runner.wake()
        self.stats.restarted()
        log.error("lane failed", lane=self.name, seat=seat, failures=failures, exc_info=error)

    def _abandon(self, error: ServerError, seat: int | None = None) -> None:
        """What fails after all are answered, for want of memory say, must not keep them from hearing it."""
        try:
            self.scheduler.abandon(error, seat)
        except Exception:
            log.exception("lane did not begin anew", lane=self.name, seat=seat)

    def _try_again(self, seat: int, pause: float) -> Wait | None:
        """Probe a seat that is down, if it is time."""
        if pause:
            return Wait(pause, math.inf)
        try:
            self._probe()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the seat stays down
            log.warning("lane stays down", lane=self.name, seat=seat, reason=str(error))
            with self._lock:
                self._supervisor.failed(seat, self._clock())
            return None
        with self._lock:
            was_healthy = self._supervisor.healthy
            self._supervisor.up(seat)
        if not was_healthy:
            self.on_health()
        return None

    # ---- answers: one post to the event loop for all of a turn

    def _take_answers(self) -> Answers[J]:
        """What the scheduler has decided since. The lock is held; nothing is added to them any more."""
        answers = self.scheduler.answers
        if not answers:
            return _NONE
        self.scheduler.answers = Answers()
        return answers

    def _tell(self, answers: Answers[J]) -> None:
        """Count what was decided, and tell the callers."""
        if answers:
            now = self._clock()
            self.stats.answered(answers, now)
            self._post([*((job, None) for job in answers.finished), *answers.failed], answers.told)
            self.stats.look(answers.finished, now)

    def _post(self, outcomes: Sequence[tuple[J, ServerError | None]], told: Sequence[J] = ()) -> None:
        """Settle jobs, and wake whoever watches, on their event loop: at once where this is its thread."""
        if not outcomes and not told:
            return
        loop = (outcomes[0][0] if outcomes else told[0]).future.get_loop()
        message = partial(_settle, outcomes, told)
        if asyncio._get_running_loop() is loop:
            message()
            return
        try:
            loop.call_soon_threadsafe(message)
        except RuntimeError:
            # The event loop is gone, and with it everybody who could have waited.
            log.warning("nobody is told: the event loop is closed", lane=self.name, jobs=len(outcomes))


def _settle(outcomes: Sequence[tuple[Job, ServerError | None]], told: Sequence[Job]) -> None:
    for job in told:
        if job.feed is not None:
            job.feed.changed.set()
    for job, error in outcomes:
        if job.future.done():
            continue
        if error is None:
            # Not the job: it and its future would keep each other, and what they hold, until garbage is collected.
            job.future.set_result(None)
        else:
            job.future.set_exception(error)
