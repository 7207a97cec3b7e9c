"""The news that the server is about to stop, for calls that would go on for long; which calls are still open; and when
all of them have heard their answers.

Everything happens on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ancestral_server.rpc.grpc_workarounds import sockets
from ancestral_server.rpc.grpc_workarounds.reading import Context

# How often to look at the end whether everything was sent; so often the event loop turns for what came last; callers
# that send nothing for so long have heard that their streams have ended; and how long they are waited for at most,
# since those of other connections may go on sending, as whoever asks for health does.
LOOK_SECONDS = 0.02
LAST_LOOKS = 5
QUIET_SECONDS = 0.2
LONGEST_HEARING_SECONDS = 5.0


class Draining:
    """Begun once, by the server. Streams come to an early end then; what is short just finishes."""

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
        closed: Any = self._closed  # the stubs ask for more than a function
        context.add_done_callback(closed)

    def _closed(self, _: object) -> None:
        self.open -= 1

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block `callback` is called when the drain begins; not if it has begun before."""
        self._callbacks.add(callback)
        try:
            yield
        finally:
            self._callbacks.discard(callback)

    async def heard(self, over: float) -> None:
        """Wait until what was answered has reached its callers, over however slow a link; until then at most, on
        time.monotonic().

        What the process leaves unsent or unread when it ends, the kernel answers with a reset, and what was on its way
        to the caller is lost.
        """

        async def wait_while(goes_on: Callable[[], bool], end: float = over) -> None:
            while goes_on() and (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(LOOK_SECONDS, left))

        await wait_while(lambda: self.open > 0)
        await wait_while(lambda: sockets.unsent() > 0)
        if self.cut_short:
            # Callers go on sending until they hear that their stream has ended.
            end = min(over, time.monotonic() + LONGEST_HEARING_SECONDS)
            await wait_while(lambda: sockets.quiet_seconds() < QUIET_SECONDS, end)
        looks = iter(range(LAST_LOOKS))
        await wait_while(lambda: next(looks, None) is not None)
