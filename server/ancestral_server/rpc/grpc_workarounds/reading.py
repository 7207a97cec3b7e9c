"""Messages are read by hand, and every method takes them as a stream.

What:   every method is registered as one that takes a stream, its messages are read by `read`, which lets gRPC read to
        the end although the caller has left; bytes that are no message, and calls without one, are refused.
Why:    grpc.aio parses the message of a unary method before it calls anything of ours: bytes that do not parse become
        UNKNOWN, and a caller that closes its side without a message is never answered. And a read that is cancelled on
        the way is never freed, nor its message (grpc/grpc#43360).
Since:  1.85.
Costs:  nothing that could be measured; `asyncio.shield` would do what `read` does with a task for each message, which
        costs a tenth of a call (35a19e6). It leans on how asyncio's futures tell a task that they are waited for.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpc_still_reads_unary_messages_before_anybody_can_refuse_them
        and ::test_grpc_is_the_one_that_was_looked_at, since a read that is kept shows in memory only
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Generator
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

    A read that is cancelled on the way would be kept for good.
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
