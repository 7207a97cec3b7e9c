"""Whose row is computed: samplers share the cores, and leave one to the front end while single calls come."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# Single calls that come at all closely keep a core free between them.
FREE_SECONDS = 0.02

# A thread that waits for its turn looks up so often, since nobody tells it that the calls have ended.
NAP_SECONDS = 0.001


class Cores:
    """As many rows at a time as there are cores to compute on, first come, first served, of all samplers together.

    Niceness alone does not let the front end have a core when it wants one: between two ticks, 4 ms, Linux's scheduler
    may leave a thread that has just woken behind a row that it would otherwise go before. So while single calls come,
    rows keep to all cores but one. `called` is the event loop's, the rest the lanes' threads'.

    count: cores to compute on.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._all = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        # Where the server was given more cores than it computes on, some are free anyway; or other servers', as with
        # --processes, which leave none.
        self._spare = 1 if 1 < len(self._all) <= count else 0
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._last_call = -math.inf
        self._thread = threading.local()

    @property
    def calm(self) -> bool:
        """Whether no single calls come."""
        return time.monotonic() - self._last_call >= FREE_SECONDS

    def called(self, now: float) -> None:
        """A single call has come whose answer somebody waits for. now: time.monotonic()."""
        self._last_call = now

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a core and have it to compute a row on."""
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            while self._waiting[0] is not mine or self._used >= self._count - self._left():
                self._changed.wait(NAP_SECONDS)
            self._waiting.popleft()
            self._used += 1
        try:
            self._leave(self._left())
            yield
        finally:
            with self._changed:
                self._used -= 1
                self._changed.notify_all()

    def _left(self) -> int:
        """How many cores rows leave free now."""
        return 0 if self.calm else self._spare

    def _leave(self, cores: int) -> None:
        """Have the calling thread keep off the first so many cores."""
        if getattr(self._thread, "left", 0) != cores:
            self._thread.left = cores
            # Cores may have been taken from the process meanwhile.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._all[cores:])
