"""Who takes a lane's turns: the event loop itself, a thread of the lane's own, or the pool of background workers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from ancestral_server.engine.pool import Seat, WorkerPool
from ancestral_server.engine.scheduler import Wait

log = structlog.get_logger()


class Turns(Protocol):
    """What a runner sees of a lane."""

    name: str

    @property
    def queued(self) -> int:
        """How many requests wait for a run."""

    @property
    def seats(self) -> int:
        """How many turns may be taken at the same time."""

    def turn(self, seat: int = 0) -> Wait | None:
        """Decide, run, answer, once; None if there may be more to do at once, else how long there is not."""

    def move(self, runner: Runner) -> None:
        """Have the turns taken by another runner from now on."""


class Runner(Protocol):
    def start(self, lane: Turns) -> None:
        """Take the lane's turns from now on."""

    def wake(self) -> None:
        """Something was submitted, or another seat has left something to do. No lock is held."""

    def close(self) -> None:
        """Take no more turns. One that goes on may still end."""


@dataclass(frozen=True, slots=True)
class LoopTuning:
    """Where the event loop takes a lane's turns itself: handing a short run to a thread, and its answers back, costs
    about as much as the run. With a thread for all runs a single caller of Encode got 28 % fewer answers, and 8 and 64
    callers 45 and 42 % more, for 22 and 19 % less CPU each (`event-loop` of `make ablation`, before `crowd`).
    """

    # Seconds that a call's run takes by itself, measured at load, up to which the event loop takes it; where one row
    # takes longer it takes none. Of 400 calls at a time of 2.5 ms each those that were too many were refused within
    # 0.4 s where a thread ran the others, within 1 to 1.7 s where the event loop did, which read few between two runs.
    call_seconds: float = 0.001
    # Seconds of a run up to which rows are put together: other calls wait so long for the event loop. At 64 in
    # flight 2 ms just split the batches of the digits' encoder (73a24f8).
    run_seconds: float = 0.003
    # After so many turns in succession that took so long a lane goes to a thread for good: a slow machine has short
    # moments, a row that has become dear has long ones. A guess.
    slow_seconds: float = 0.005
    slow_turns: int = 50
    # Calls in flight together from which a thread runs them: meanwhile the event loop reads more, and the next batch is
    # larger. Against the event loop alone, answers of Encode at 2, 4, 8 and 64 in flight: -12, +17, +35 and +33 %.
    crowd: int = 4


class LoopRunner:
    """On the event loop's thread, within `submit` where nothing has to be waited for: no thread is woken for a call and
    none for its answer. Everything but `start` and `close` is that thread's.

    crowd: how many calls were lately in flight together. While they are many, a thread takes the turns.
    loop: whose thread it is, where another thread starts the runner.
    """

    def __init__(
        self,
        tuning: LoopTuning = LoopTuning(),
        crowd: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._tuning = tuning
        self._crowd = crowd
        self._clock = clock
        self._loop = loop
        self._lane: Turns | None = None
        # The next turn: about to come, or when a wait is over, unless so many requests are queued before.
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = 1.0
        # Turns in succession that took long.
        self._slow = 0

    def start(self, lane: Turns) -> None:
        self._lane = lane
        if self._loop is not None:
            # Something may be queued. A loop that is closed has nobody left who could wait for it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        if self._soon or self._lane is None:
            return
        if self._timer is not None:
            if self._lane.queued < self._wake_at:
                return
            self._timer.cancel()
        # Within its own turn it need not be told.
        self._soon = True
        self._turn()

    def close(self) -> None:
        # A turn that is still to come finds the lane closed.
        pass

    def _turn(self) -> None:
        lane = self._lane
        if lane is None:
            return
        self._timer, self._soon = None, True
        began = self._clock()
        wait = lane.turn()
        self._slow = self._slow + 1 if self._clock() - began > self._tuning.slow_seconds else 0
        if self._slow >= self._tuning.slow_turns:
            log.warning("runs have become long, a thread takes them", lane=lane.name)
            self._lane = None
            lane.move(ThreadRunner())
        elif self._crowd() >= self._tuning.crowd:
            self._lane = None
            lane.move(ThreadRunner(partial(self._again, asyncio.get_running_loop())))
        elif wait is None:
            # Not at once: what else the loop has to do comes first, and may join.
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._soon = False
            if wait.seconds is not None:
                self._wake_at = wait.wake_at
                self._timer = asyncio.get_running_loop().call_later(wait.seconds, self._turn)

    def _again(self, loop: asyncio.AbstractEventLoop) -> Runner | None:
        """Who takes the turns after the thread's next: the event loop again, once calls come one by one."""
        if self._crowd() >= self._tuning.crowd:
            return None
        return LoopRunner(self._tuning, self._crowd, self._clock, loop)


class ThreadRunner:
    """On a thread of the lane's own: for calls that somebody waits for, so that nothing is before them.

    successor: asked after each turn for another runner that takes them from then on.
    """

    def __init__(self, successor: Callable[[], Runner | None] = lambda: None) -> None:
        self._successor = successor
        self._lane: Turns | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._closed = False
        # Requests at which the thread wakes up; 0 while it does not sleep, so that arrivals need not wake it.
        self._wake_at = 0.0

    def start(self, lane: Turns) -> None:
        self._lane = lane
        self._thread = threading.Thread(target=self._take_turns, args=(lane,), name=f"lane {lane.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        if self._wake_at and self._lane is not None and self._lane.queued >= self._wake_at:
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _take_turns(self, lane: Turns) -> None:
        while not self._closed:
            wait = lane.turn()
            if (runner := self._successor()) is not None:
                lane.move(runner)
                return
            if wait is not None:
                self._sleep(lane, wait)

    def _sleep(self, lane: Turns, wait: Wait) -> None:
        with self._changed:
            # First this, then a look at the queue, while `wake` comes after the queue has changed: one sees the other.
            self._wake_at = wait.wake_at
            self._changed.wait_for(lambda: self._closed or lane.queued >= wait.wake_at, wait.seconds)
            self._wake_at = 0.0


class PoolRunner:
    """On the background workers, beside other lanes: for bulk and for samplers."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._seats: list[Seat] = []
        self._lane: Turns | None = None

    def start(self, lane: Turns) -> None:
        self._lane = lane
        self._seats = [Seat(partial(lane.turn, number)) for number in range(lane.seats)]
        self._pool.enter()

    def wake(self) -> None:
        if self._lane is not None:
            self._pool.offer(self._seats, self._lane.queued)

    def close(self) -> None:
        if self._seats:
            self._pool.leave(self._seats)
            self._seats = []
