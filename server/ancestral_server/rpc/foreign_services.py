"""The services that are not ours (health, reflection): they answer whom the door lets in, and refuse nonsense."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import grpc

from ancestral_server.errors import ServerError
from ancestral_server.rpc.door import Door, authorization_of
from ancestral_server.rpc.grpc_workarounds.reading import Context, Handler, each, one
from ancestral_server.rpc.registered import Registered
from ancestral_server.rpc.status import status


class ForeignServices(Registered):
    """See the module. door: who lets calls in; None: nobody need. without: names of methods that are not served."""

    def __init__(self, door: Door | None = None, without: Collection[str] = ()) -> None:
        super().__init__()
        self._door = door
        self._without = without

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        name = handler_call_details.method.rpartition("/")[2]
        return None if name in self._without else super().service(handler_call_details)

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        codecs = (handler.request_deserializer, handler.response_serializer)

        async def received(context: Context) -> Any:
            return each(context) if handler.request_streaming else await one(context)

        def entered(context: Context) -> AbstractContextManager[object]:
            path = f"/{service}/{method}"
            if self._door is None or not self._door.guards(path):
                return nullcontext()
            authorization = authorization_of(tuple(context.invocation_metadata() or ()))
            return self._door.enter(path, authorization, context, stream=handler.response_streaming)

        async def call(_: Any, context: Context) -> Any:
            try:
                with entered(context):
                    return await behaviour(await received(context), context)
            except ServerError as error:
                await _abort(context, error)

        async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
            try:
                with entered(context):
                    async for reply in behaviour(await received(context), context):
                        yield reply
            except ServerError as error:
                await _abort(context, error)

        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(call, *codecs)
        # A stream is a generator of replies, or (Watch) writes them itself.
        return grpc.stream_stream_rpc_method_handler(stream if inspect.isasyncgenfunction(behaviour) else call, *codecs)


async def _abort(context: Context, error: ServerError) -> NoReturn:
    await context.abort(*status(error, request_id=""))
