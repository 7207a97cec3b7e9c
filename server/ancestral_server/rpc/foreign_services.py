"""The services that are not ours (health, reflection): they answer, and refuse what they cannot read."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import grpc

from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc.grpc_workarounds.reading import Context, Handler, each, one
from ancestral_server.rpc.registered import Registered


class ForeignServices(Registered):
    """See the module."""

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
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
