"""The news that the server is about to stop, for calls that would go on for long. Everything on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Draining:
    """Begun once, by the door. Streams come to an early end then; what is short just finishes."""

    def __init__(self) -> None:
        self.begun = False
        self._callbacks: set[Callable[[], object]] = set()

    def begin(self) -> None:
        self.begun = True
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block `callback` is called when the drain begins; not if it has begun before."""
        self._callbacks.add(callback)
        try:
            yield
        finally:
            self._callbacks.discard(callback)
