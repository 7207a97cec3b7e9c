"""Messages that cannot be read, or never come, are the caller's fault and are answered as such.

grpc.aio parses the message of a unary method before it calls anything of ours: bytes that do not parse become UNKNOWN,
and a caller that closes its side without a message is never answered. So every method takes its messages as a stream,
which costs nothing measurable, and parsing happens where its failure can be caught.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Generator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from ancestral_server.errors import InvalidArgument

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@types.coroutine
def read(context: Context) -> Generator[Any, None, Any]:
    """The next message, or EOF, like `context.read()`; but gRPC is let read to the end although the caller has left.

    It never frees a read that is cancelled on the way, nor the message (grpc/grpc#43360; 1.85). `asyncio.shield` would
    do the same with a task for each message, which costs a tenth of a call.
    """
    reading: Any = context.read()
    while True:
        try:
            pending = reading.send(None)
        except StopIteration as ended:
            return ended.value
        # What gRPC waits for is not handed on to the task that waits here, which would cancel it, but followed.
        pending._asyncio_future_blocking = False
        waiter = pending.get_loop().create_future()
        pending.add_done_callback(partial(_follow, waiter, reading))
        try:
            yield from waiter
        except asyncio.CancelledError:
            if pending.done():
                _finish(reading)
            raise


def _follow(waiter: asyncio.Future[None], reading: Any, _: asyncio.Future[Any]) -> None:
    if waiter.done():
        _finish(reading)
    else:
        waiter.set_result(None)


def _finish(reading: Any) -> None:
    """Let a read that nobody waits for any more take what it got."""
    with suppress(Exception):  # StopIteration with the message, or what went wrong with it
        reading.send(None)


async def one(context: Context) -> Any:
    """The message of a method that takes one; InvalidArgument if it cannot be parsed or the caller sends none."""
    try:
        request = await read(context)
    except DecodeError as error:
        raise InvalidArgument("request", f"cannot be parsed: {error}") from error
    if request is grpc.aio.EOF:
        raise InvalidArgument("request", "is missing: the call was closed without a message, must bring one")
    return request


async def each(context: Context) -> AsyncIterator[Any]:
    """The messages of a method that takes many; InvalidArgument naming the one that cannot be parsed."""
    index = 0
    try:
        while (request := await read(context)) is not grpc.aio.EOF:
            yield request
            index += 1
    except DecodeError as error:
        raise InvalidArgument(f"request[{index}]", f"cannot be parsed: {error}") from error


class Registered(grpc.GenericRpcHandler, ABC):
    """Stands in for the server when a generated `add_..._to_server` registers methods: keeps them, wrapped."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @property
    def paths(self) -> Collection[str]:
        """The full names of the methods, "/package.Service/Method"."""
        return self._handlers.keys()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """What answers a call whose headers have come."""
        return self._handlers.get(handler_call_details.method)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Generated code calls this beside the next one, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = self._wrap(service, method, handler)

    @abstractmethod
    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        """What answers in the handler's place."""


class Forgiving(Registered):
    """For services that are not ours (health, reflection): refuses what they cannot read."""

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        return forgiving(handler)


def forgiving(handler: Handler) -> Handler:
    """The handler of a service that is not ours (health, reflection), refusing what it cannot read."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    codecs = (handler.request_deserializer, handler.response_serializer)

    async def received(context: Context) -> Any:
        return each(context) if handler.request_streaming else await one(context)

    async def call(_: Any, context: Context) -> Any:
        try:
            return await behaviour(await received(context), context)
        except InvalidArgument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for reply in behaviour(await received(context), context):
                yield reply
        except InvalidArgument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    if not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(call, *codecs)
    # A stream is a generator of replies, or (Watch) writes them itself.
    return grpc.stream_stream_rpc_method_handler(stream if inspect.isasyncgenfunction(behaviour) else call, *codecs)
