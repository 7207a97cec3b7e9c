"""All that differs between a client that waits and one that is awaited: how a call is made, and how time passes.

What calls mean is written once, as coroutines over a Transport (`_calls.py`, `stream.py`, `bulk.py`). Over `Blocking`
they never suspend, so that `run` carries them to their end without an event loop; over `Asyncio` they are awaited.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2_grpc
from ancestral_client import _channel
from ancestral_client._access import Entry
from ancestral_client._channel import Way
from ancestral_client._grpc_workarounds import kept_status
from ancestral_client._rpcs import Rpc
from ancestral_client.errors import Unavailable

_Reply = TypeVar("_Reply", bound=Message)
_Value = TypeVar("_Value")


class Flag(Protocol):
    """An event of `threading` or of `asyncio`."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...


class Outbox(Protocol):
    """The messages that a call is to send, in order; None ends them."""

    def put(self, message: Any, /) -> None: ...


class Transport(Protocol):
    """Calls at one address. Unavailable is raised by who asks for one once it is closed, grpc.RpcError by what fails.

    `options` are keyword arguments of gRPC's own calls: timeout and metadata.
    """

    awaits: bool
    """Whether a coroutine over it may suspend, as over an asynchronous iterable."""

    async def ask(self, rpc: Rpc[Any, _Reply], request: Any, options: dict[str, Any]) -> _Reply:
        """The reply of a call with one."""

    def start(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        """A call with one reply, which `result` gives; it has `done` and `cancel`."""

    async def any_done(self, calls: Sequence[Any], seconds: float) -> bool:
        """Whether one of the calls that were started is done, at the latest in so many seconds."""

    async def result(self, call: Any) -> Any:
        """The reply of a call that was started."""

    def begin(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> Any:
        """A call whose replies `read` gives. `requests` is one message, or an outbox of them."""

    async def read(self, call: Any) -> Any:
        """The next reply of a call that was begun; None after the last."""

    def outbox(self, wrapped: Callable[[Any], Any]) -> Outbox:
        """An empty outbox, whose messages are wrapped when they are sent."""

    def flag(self) -> Any:
        """A Flag for `wait`."""

    async def wait(self, flag: Any, seconds: float) -> bool:
        """Whether a flag is set, at the latest in so many seconds."""

    async def sleep(self, seconds: float) -> None:
        """Lets time pass."""

    def now(self) -> float:
        """Seconds on the clock that `wait` and `sleep` go by."""

    async def close(self) -> None:
        """Calls in flight are cancelled, and no others can be made."""


def run(steps: Coroutine[Any, Any, _Value]) -> _Value:
    """What a coroutine over a blocking transport returns: it never suspends."""
    try:
        steps.send(None)
    except StopIteration as done:
        value: _Value = done.value
        return value
    steps.close()
    raise RuntimeError("a call that blocks waited for an event loop")


class _Stubs:
    """The services on a channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def call(self, rpc: Rpc[Any, Any]) -> Any:
        return getattr(getattr(self, rpc.service), rpc.method)


def _closed() -> Unavailable:
    return Unavailable("this client was closed; make another one", connected=False)


class Blocking:
    """Every wait blocks the thread. May be shared between threads."""

    awaits = False

    def __init__(self, way: Way, entry: Entry) -> None:
        self._stubs = _Stubs(_channel.blocking(way, entry))
        self._is_closed = False

    def _call(self, rpc: Rpc[Any, Any]) -> Any:
        if self._is_closed:
            raise _closed()
        return self._stubs.call(rpc)

    async def ask(self, rpc: Rpc[Any, _Reply], request: Any, options: dict[str, Any]) -> _Reply:
        reply: _Reply = self._call(rpc)(request, **options)
        return reply

    def start(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        return self._call(rpc).future(request, **options)

    async def any_done(self, calls: Sequence[Any], seconds: float) -> bool:
        done = threading.Event()
        for call in calls:
            call.add_done_callback(lambda _: done.set())
        return done.wait(None if seconds == math.inf else seconds)

    async def result(self, call: Any) -> Any:
        try:
            return call.result()
        except grpc.FutureCancelledError:
            raise _CancelledCall from None

    def begin(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> Any:
        return self._call(rpc)(iter(requests) if isinstance(requests, _QueueOfThreads) else requests, **options)

    async def read(self, call: Any) -> Any:
        return next(call, None)

    def outbox(self, wrapped: Callable[[Any], Any]) -> Outbox:
        return _QueueOfThreads(wrapped)

    def flag(self) -> threading.Event:
        return threading.Event()

    async def wait(self, flag: threading.Event, seconds: float) -> bool:
        return flag.wait(seconds)

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self) -> None:
        self._is_closed = True
        self._stubs.channel.close()


class _QueueOfThreads:
    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self._wrapped = wrapped
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put

    def __iter__(self) -> Iterator[Any]:
        return map(self._wrapped, iter(self._queue.get, None))


class Asyncio:
    """Every wait is awaited. The channel is opened by the first call, and anew where the event loop is another one."""

    awaits = True

    def __init__(self, way: Way, entry: Entry) -> None:
        self._way, self._entry = way, entry
        self._stubs: _Stubs | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def _call(self, rpc: Rpc[Any, Any]) -> Any:
        if self._is_closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._stubs is None or self._loop is not loop:
            channel = _channel.asynchronous(self._way, self._entry)
            self._stubs, self._loop = _Stubs(channel), loop
        return self._stubs.call(rpc)

    async def ask(self, rpc: Rpc[Any, _Reply], request: Any, options: dict[str, Any]) -> _Reply:
        with _cancelled_call_is_an_error():
            reply: _Reply = await self._call(rpc)(request, **options)
        return reply

    def start(self, rpc: Rpc[Any, Any], request: Any, options: dict[str, Any]) -> Any:
        return self._call(rpc)(request, **options)

    async def any_done(self, calls: Sequence[Any], seconds: float) -> bool:
        done = asyncio.Event()
        for call in calls:
            call.add_done_callback(lambda _: done.set())
        return await self.wait(done, seconds)

    async def result(self, call: Any) -> Any:
        with _cancelled_call_is_an_error():
            return await call

    def begin(self, rpc: Rpc[Any, Any], requests: Any, options: dict[str, Any]) -> Any:
        if isinstance(requests, _QueueOfTasks):
            return kept_status.kept(self._call(rpc)(aiter(requests), **options))
        return self._call(rpc)(requests, **options)

    async def read(self, call: Any) -> Any:
        with _cancelled_call_is_an_error():
            # Not by its `read`, which looks whether the call is over before what it still holds.
            return await anext(aiter(call), None)

    def outbox(self, wrapped: Callable[[Any], Any]) -> Outbox:
        return _QueueOfTasks(wrapped)

    def flag(self) -> asyncio.Event:
        return asyncio.Event()

    async def wait(self, flag: asyncio.Event, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await flag.wait()
        except TimeoutError:
            return flag.is_set()

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        self._is_closed = True
        if self._stubs is not None and self._loop is asyncio.get_running_loop():
            await self._stubs.channel.close()
        self._stubs = None


class _QueueOfTasks:
    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self._wrapped = wrapped
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.put = self._queue.put_nowait

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self._queue.get()) is not None:
            yield self._wrapped(message)


class _CancelledCall(grpc.RpcError):
    """A call that was cancelled on this side."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "the call was cancelled: its stream or its client was closed"

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


@contextmanager
def _cancelled_call_is_an_error() -> Iterator[None]:
    """Tells a call that was cancelled from a task that is: asyncio has one exception for both."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _CancelledCall from None
