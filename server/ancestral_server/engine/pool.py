"""Background work: a worker a core for bulk and the rows of samplers, of all lanes together, first come, first served.

While single calls come, its threads leave a core free: between two ticks, 4 ms, Linux's scheduler may leave a thread
that has just woken behind a run that it should go before.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ancestral_server.engine.scheduler import Wait


@dataclass(frozen=True, slots=True)
class PoolTuning:
    """When a core is left free."""

    # Seconds after a single call for which a core stays free. A caller that sends the next one as soon as it has its
    # answer comes back within a few milliseconds. With it, p99 of single-image encoding beside a saturated sampler was
    # 2.1 times its idle value on two cores, without 3 to 4 times (bf6f955, `make bench-isolation`).
    free_seconds: float = 0.02
    # Seconds that a run of bulk may take, if it holds more than one row: the rows of samplers wait for it where there
    # are as many such runs as workers. A guess: some rows of a sampler.
    bulk_run_seconds: float = 0.05


@dataclass(slots=True, eq=False)
class Seat:
    """One of the turns of a lane that may be taken at the same time; in the pool's hands, under its lock."""

    turn: Callable[[], Wait | None]
    # The turn stands in line or has a worker.
    busy: bool = False
    # Something came while a worker had it.
    woken: bool = False
    closed: bool = False
    # What it waits for, where it waits: a time, and so many requests.
    due: float = math.inf
    wake_at: float = 1


@dataclass(slots=True)
class _Team:
    """The threads that were started together; they end when the last lane has left."""

    dismissed: bool = False
    threads: list[threading.Thread] = field(default_factory=list)


class WorkerPool:
    """`threads` workers, started with the first lane and ended with the last. `called` is the event loop's."""

    def __init__(
        self, threads: int, tuning: PoolTuning = PoolTuning(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.threads = threads
        self.tuning = tuning
        self._clock = clock
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        # Where the server was given more cores than it computes on, some are free anyway; or other servers', as with
        # --processes, which leave none.
        self._spare = 1 if 1 < len(self._cores) <= threads else 0
        self._last_call = -math.inf
        self._changed = threading.Condition()
        # Seats that wait for a worker, in line; and those that wait for a time.
        self._line: deque[Seat] = deque()
        self._waiting: set[Seat] = set()
        # Workers that have a seat.
        self._working = 0
        self._lanes = 0
        self._team = _Team()

    def called(self, now: float) -> None:
        """A single call has come whose answer somebody waits for. now: time.monotonic() seconds."""
        self._last_call = now

    # ---- the lanes' side

    def enter(self) -> None:
        """A lane begins."""
        with self._changed:
            self._lanes += 1
            if self._lanes == 1:
                self._team = team = _Team()
                team.threads = [
                    threading.Thread(target=self._work, args=(team,), name=f"background {number}", daemon=True)
                    for number in range(self.threads)
                ]
                for thread in team.threads:
                    thread.start()

    def leave(self, seats: Sequence[Seat]) -> None:
        """A lane ends: its seats stand in line no more. A turn that goes on may still end."""
        with self._changed:
            for seat in seats:
                seat.closed = True
                self._waiting.discard(seat)
            self._line = deque(seat for seat in self._line if not seat.closed)
            self._lanes -= 1
            if not self._lanes:
                self._team.dismissed = True
            self._changed.notify_all()

    def offer(self, seats: Sequence[Seat], queued: int) -> None:
        """One of a lane's seats, if any idles, should take a turn; so many requests are queued there."""
        with self._changed:
            for seat in seats:
                if not seat.busy and queued >= seat.wake_at:
                    self._queue(seat)
                    return
            for seat in seats:
                seat.woken = True

    # ---- the workers' side

    def _work(self, team: _Team) -> None:
        left = 0
        while (found := self._next(team)) is not None:
            seat, spared = found
            if spared != left:
                left = spared
                _keep_to(self._cores[left:])
            wait = seat.turn()
            self._done(seat, wait)
            # Who waits for the next seat must not keep the lane of the last one, which may be gone meanwhile.
            del found, seat

    def _next(self, team: _Team) -> tuple[Seat, int] | None:
        """The next seat in line, once a core is free for it, and how many cores to keep off; None to end."""
        with self._changed:
            while not team.dismissed:
                now = self._clock()
                due = [seat for seat in self._waiting if seat.due <= now]
                while due:
                    self._queue(due.pop())
                calm_at = self._last_call + self.tuning.free_seconds
                spared = self._spare if now < calm_at else 0
                if self._line and self._working < self.threads - spared:
                    self._working += 1
                    return self._line.popleft(), spared
                # Nobody tells that the calls have ended.
                until = min([calm_at if self._line and spared else math.inf, *(seat.due for seat in self._waiting)])
                self._changed.wait(None if math.isinf(until) else max(0.0, until - now))
            return None

    def _done(self, seat: Seat, wait: Wait | None) -> None:
        """A seat's turn has ended, and says how long it has nothing to do."""
        with self._changed:
            self._working -= 1
            seat.busy = False
            woken, seat.woken = seat.woken, False
            if seat.closed:
                pass
            elif wait is None or woken:
                self._queue(seat)
            else:
                seat.wake_at = wait.wake_at
                if wait.seconds is not None:
                    seat.due = self._clock() + wait.seconds
                    self._waiting.add(seat)
            self._changed.notify()

    def _queue(self, seat: Seat) -> None:
        """Have a seat stand in line. The lock is held."""
        self._waiting.discard(seat)
        seat.busy, seat.woken, seat.due, seat.wake_at = True, False, math.inf, 1
        self._line.append(seat)
        self._changed.notify()


def _keep_to(cores: Sequence[int]) -> None:
    """Have the calling thread run on these cores only."""
    # Cores may have been taken from the process meanwhile.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cores)
