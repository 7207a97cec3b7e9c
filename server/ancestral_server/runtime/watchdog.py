"""Ends what onnxruntime does for longer than it may."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

# How often it looks. It is there for what never ends, not to keep time.
LOOK_SECONDS = 0.25


class Watchdog:
    """One thread, from the first `watch` on until this object is gone. Who begins something says when it has to end,
    and how it is ended, and says so when it has: two writes to a dictionary, which need no lock.
    """

    def __init__(self) -> None:
        self._watched: dict[Any, tuple[float, Callable[[Any], None]]] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, what: Any, end: float, stop: Callable[[Any], None]) -> None:
        """Call `stop(what)`, and again every now and then, from `end` (time.monotonic() seconds) on until `done`."""
        self._watched[what] = end, stop
        if self._thread is None:
            self._start()

    def done(self, what: Any) -> None:
        """It has ended, or nobody has begun it."""
        self._watched.pop(what, None)

    @property
    def watching(self) -> int:
        """How much is being watched."""
        return len(self._watched)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=_look, args=(weakref.ref(self),), name="watchdog", daemon=True)
                self._thread.start()

    def look(self) -> None:
        """Stop what has not ended in time."""
        now = time.monotonic()
        # A copy, made in one step: other threads begin and end meanwhile.
        for what, (end, stop) in list(self._watched.items()):
            if now >= end:
                stop(what)


def _look(dog: weakref.ref[Watchdog]) -> None:
    while (watchdog := dog()) is not None:
        watchdog.look()
        # The next one to ask may find that it is gone.
        del watchdog
        time.sleep(LOOK_SECONDS)
