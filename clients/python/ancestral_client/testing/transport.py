"""What a client of a fake server has in place of a channel: nothing waits, and pauses pass on the server's clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ancestral_client._rpcs import Rpc
from ancestral_client.errors import Cancelled, Unavailable
from ancestral_client.testing import status


class Answers(Protocol):
    """What a FakeServer is to a transport."""

    now: float

    def answer(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        """The reply to a call with one; raises what gRPC would."""

    def stream(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> Iterator[Any]:
        """The replies of a stream; raises what gRPC would. `requests` is one message, or an iterator of them."""

    def pass_time(self, seconds: float) -> None:
        """Lets time pass on the server's clock."""


class FakeTransport:
    """A Transport of `ancestral_client._transport`."""

    def __init__(self, server: Answers, *, awaits: bool) -> None:
        self.awaits = awaits
        self._server = server
        self._is_closed = False

    def now(self) -> float:
        return self._server.now

    async def ask(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        self._check_open()
        await self._others()
        return self._server.answer(rpc, request, options)

    def start(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> FakeAnswer:
        self._check_open()
        return FakeAnswer(lambda: self._server.answer(rpc, request, options))

    async def any_done(self, calls: Sequence[FakeAnswer], seconds: float) -> bool:
        await self._others()
        return True

    async def result(self, call: FakeAnswer) -> Any:
        return call.answer()

    def begin(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> FakeCall:
        self._check_open()
        return FakeCall(self._server.stream(rpc, requests, options))

    async def read(self, call: FakeCall) -> Any:
        await self._others()
        return call.read()

    def outbox(self, wrapped: Callable[[Any], Any]) -> Outbox:
        return Outbox(wrapped)

    def flag(self) -> Flag:
        return Flag()

    async def wait(self, flag: Flag, seconds: float) -> bool:
        await self.sleep(seconds)
        return flag.is_set()

    async def sleep(self, seconds: float) -> None:
        self._server.pass_time(seconds)
        await self._others()

    async def close(self) -> None:
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("this client was closed; make another one", connected=False)

    async def _others(self) -> None:
        """Gives other tasks their turn, as a real call would."""
        if self.awaits:
            await asyncio.sleep(0)


class FakeAnswer:
    """A call with one reply, which a fake server gives at once."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def done(self) -> bool:
        return True

    def cancel(self) -> None:
        """There is nothing left to cancel."""


class FakeCall:
    """A stream of replies."""

    def __init__(self, replies: Iterator[Any]) -> None:
        self._replies = replies
        self._is_cancelled = False

    def read(self) -> Any:
        if self._is_cancelled:
            raise status.failed(Cancelled("the call was cancelled: its stream or its client was closed"), "")
        return next(self._replies, None)

    def cancel(self) -> None:
        self._is_cancelled = True


class Outbox:
    """Messages that were put in and not yet taken. Whoever reads has put in what is to be answered."""

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self._wrapped = wrapped
        self._messages: deque[Any] = deque()
        self.put = self._messages.append

    def __iter__(self) -> Iterator[Any]:
        while self._messages and (message := self._messages.popleft()) is not None:
            yield self._wrapped(message)


class Flag:
    """An event that nobody has to wait for."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
