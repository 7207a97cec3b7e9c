"""Around every call of our services: request id, recorders, errors to status. Health and reflection pass by.

Methods are wrapped once, when they are registered, and not by an interceptor of grpc's: that costs every call a
coroutine and a search for its handler.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import Internal, ServerError
from ancestral_server.rpc.door import Door, authorization_of
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds import expiry, reading
from ancestral_server.rpc.grpc_workarounds.reading import Context, Handler
from ancestral_server.rpc.recording import Call, CallRecorder, End, Headers, Method, current
from ancestral_server.rpc.registered import Registered
from ancestral_server.rpc.status import status

log = structlog.get_logger()

_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Ids of calls that bring none: as unlikely to meet another server's as a random one, at the price of a counter.
_OURS = secrets.token_hex(8)
_numbers = itertools.count(1)


class CallInterceptor(Registered):
    """Stands in for the server when a generated `add_..._to_server` registers its methods: keeps them, wrapped."""

    def __init__(
        self, recorder: CallRecorder, arrivals: Arrivals, draining: Draining, door: Door | None = None
    ) -> None:
        super().__init__()
        self._recorder = recorder
        self._draining = draining
        self._door = door
        self._arrivals = arrivals
        self._methods: dict[str, Method] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        handler = super().service(handler_call_details)
        if handler is not None:
            self._arrivals.begin(time.monotonic())
            # Here, where gRPC shows them anyway: the handler runs in the same context, and would have them made anew.
            headers = handler_call_details.invocation_metadata or ()
            call = Call(self._methods[handler_call_details.method], _request_id(headers), self._recorder)
            if call.method.guarded:
                call.authorization = authorization_of(headers)
            self._recorder.arrived(call, headers)
            current.set(call)
        return handler

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        if handler.unary_unary is not None:
            kind = "unary"
        elif handler.stream_stream is not None:
            kind = "bidi_stream"
        else:
            assert handler.unary_stream is not None, f"{method}: no method takes a stream and gives one answer"
            kind = "server_stream"
        served = Method(kind, service, method, self._door is not None and self._door.guards(f"/{service}/{method}"))
        self._methods[served.path] = served
        self._recorder.serve(served)
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.unary_unary), *codecs)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream(self._bidi(handler.stream_stream)), *codecs)
        return grpc.stream_stream_rpc_method_handler(self._stream(self._server_stream(handler.unary_stream)), *codecs)

    def _unary(self, behaviour: Any) -> Any:
        async def call(_: Any, context: Context) -> Any:
            call = self._begin(context)
            try:
                if call.method.guarded:
                    self._enter(call, context)
                reply = await behaviour(await self._read(call, context), context)
            except BaseException as error:
                await _failed(call, error, context)
                raise
            call.recorder.sent(call)
            _succeeded(call)
            return reply

        return call

    def _stream(self, behaviour: Any) -> Any:
        async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
            call = self._begin(context)
            try:
                if call.method.guarded:
                    self._enter(call, context)
                async with aclosing(await behaviour(call, context)) as replies:
                    async for reply in replies:
                        call.recorder.sent(call)
                        yield reply
            except BaseException as error:
                await _failed(call, error, context)
                raise
            _succeeded(call)

        return stream

    def _server_stream(self, behaviour: Any) -> Any:
        async def replies(call: Call, context: Context) -> Any:
            return behaviour(await self._read(call, context), context)

        return replies

    def _bidi(self, behaviour: Any) -> Any:
        async def replies(call: Call, context: Context) -> Any:
            # Its messages join batches of their own accord: nobody need wait for them.
            self._arrivals.read()
            return behaviour(_Messages(call, context), context)

        return replies

    def _begin(self, context: Context) -> Call:
        call = current.get()
        call.began = time.monotonic()
        call.recorder.begin(call)
        if call.work is not None or call.trace is not None:
            call.peer = context.peer()
        self._draining.opened(context)
        return call

    def _enter(self, call: Call, context: Context) -> None:
        assert self._door is not None, "it guards the method"
        stream = call.method.kind != "unary"
        try:
            call.visit = self._door.enter(call.method.path, call.authorization, context, stream=stream)
        except ServerError:
            # Its message is not read, and nobody need wait for it.
            self._arrivals.read()
            raise

    async def _read(self, call: Call, context: Context) -> Any:
        """The message of a call that has one; InvalidArgument where there is none that can be read."""
        try:
            request = await reading.one(context)
        finally:
            # The headers that `service` has seen are followed by their message, or nobody need wait for it any more.
            self._arrivals.read()
        call.recorder.received(call)
        return request


class _Messages:
    """The messages of a stream, recorded. After the DecodeError of one that is none the next can still be read."""

    def __init__(self, call: Call, context: Context) -> None:
        self._call = call
        self._context = context

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await reading.read(self._context)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        self._call.recorder.received(self._call)
        return message


def _succeeded(call: Call) -> None:
    call.recorder.ended(call, End(grpc.StatusCode.OK, time.monotonic() - call.began))


async def _failed(call: Call, error: BaseException, context: Context) -> None:
    """Record the end of a call, and end it with the error's status unless its caller has left."""
    seconds = time.monotonic() - call.began
    # A caller that leaves cancels the handler, or has an unfinished stream thrown away.
    if not isinstance(error, Exception):
        _tell_failed(call, End(grpc.StatusCode.CANCELLED, seconds))
        return
    if not isinstance(error, ServerError):
        log.error("call failed", method=call.method.path, request_id=call.request_id, exc_info=error)
        error = Internal(f"{type(error).__name__}: {error}")
    code, message, trailers = status(error, call.request_id)
    # An error knows the frames that it passed; one of them knows the job, the job its future, and the future the error:
    # they would keep each other, and the images, until garbage is collected.
    error.__traceback__ = None
    _tell_failed(call, End(code, seconds, message, error))
    await expiry.end(context)
    await context.abort(code, message, trailers)


def _tell_failed(call: Call, end: End) -> None:
    call.recorder.failed(call, end)
    call.recorder.ended(call, end)


def _request_id(headers: Headers) -> str:
    for key, value in headers:
        if key == "x-request-id" and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return f"{_OURS}{next(_numbers):016x}"
