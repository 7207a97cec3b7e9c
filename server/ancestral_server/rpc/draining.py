"""The news that the server is about to stop, for calls that would go on for long, and which calls are still open.

Everything happens on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ancestral_server.rpc.parsing import Context


class Draining:
    """Begun once, by the door. Streams come to an early end then; what is short just finishes."""

    def __init__(self) -> None:
        self.begun = False
        # Calls whose end gRPC has not yet handed to the kernel, however long ago their handlers returned.
        self.open = 0
        # Whether callers may be sending what nobody reads any more.
        self.cut_short = False
        self._callbacks: set[Callable[[], object]] = set()

    def begin(self) -> None:
        self.begun = True
        for callback in tuple(self._callbacks):
            callback()

    def opened(self, context: Context) -> None:
        """A call has begun; `open` counts it until it has ended."""
        self.open += 1
        context.add_done_callback(self._closed)  # type: ignore[arg-type]  # the stubs want a call, not a context

    def _closed(self, _: Context) -> None:
        self.open -= 1

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block `callback` is called when the drain begins; not if it has begun before."""
        self._callbacks.add(callback)
        try:
            yield
        finally:
            self._callbacks.discard(callback)
