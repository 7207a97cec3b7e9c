"""Around every call of our services: request id, counts, log, errors to status. Health and reflection pass by.

Methods are wrapped once, when they are registered, and not by an interceptor of grpc's: that costs every call a
coroutine and a search for its handler.
"""

from __future__ import annotations

import contextvars
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import structlog

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import Internal, ServerError
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc.status import camel_case, status

log = structlog.get_logger()

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Ids of calls that bring none: as unlikely to meet another server's as a random one, at the price of a counter.
_OURS = secrets.token_hex(8)
_numbers = itertools.count(1)
_OK, _CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED
# In an overload refusals come by the thousand, and a line for each would cost more than the refusal.
_COUNTED_ONLY = {_OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
_IN_METRICS = {code: camel_case(code) for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Observed(grpc.GenericRpcHandler):
    """Stands in for the server when a generated `add_..._to_server` registers its methods: keeps them, wrapped."""

    def __init__(self, metrics: Metrics, arrivals: Arrivals, *, log_calls: bool) -> None:
        self._metrics = metrics
        self._arrivals = arrivals
        self._log_calls = log_calls
        self._handlers: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """What answers a call whose headers have come."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            self._arrivals.begin(time.monotonic())
        return handler

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Generated code calls this beside the next one, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = self._wrap(service, method, handler)

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        path = f"/{service}/{method}"
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        arrivals = self._arrivals
        if handler.unary_unary is not None:
            observer = _Observer(path, self._metrics.method("unary", service, method), self._log_calls)
            behaviour: Any = handler.unary_unary

            async def call(request: Any, context: Context) -> Any:
                arrivals.read()
                began = observer.begin(context)
                try:
                    reply = await behaviour(request, context)
                except BaseException as error:
                    await observer.failed(began, error, context)
                    raise
                observer.sent()
                observer.done(began, _OK)
                return reply

            return grpc.unary_unary_rpc_method_handler(call, **codecs)

        if handler.stream_stream is not None:
            bidi_observer = _Observer(path, self._metrics.method("bidi_stream", service, method), self._log_calls)
            bidi_behaviour: Any = handler.stream_stream

            async def bidi(_: Any, context: Context) -> AsyncIterator[Any]:
                arrivals.read()
                began = bidi_observer.begin(context, received=0)
                try:
                    messages = _Messages(context, bidi_observer)
                    async with aclosing(bidi_behaviour(messages, context)) as replies:
                        async for reply in replies:
                            bidi_observer.sent()
                            yield reply
                except BaseException as error:
                    await bidi_observer.failed(began, error, context)
                    raise
                bidi_observer.done(began, _OK)

            return grpc.stream_stream_rpc_method_handler(bidi, **codecs)

        assert handler.unary_stream is not None, f"{path}: no method takes a stream and gives one answer"
        stream_observer = _Observer(path, self._metrics.method("server_stream", service, method), self._log_calls)
        stream_behaviour: Any = handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            arrivals.read()
            began = stream_observer.begin(context)
            try:
                async with aclosing(stream_behaviour(request, context)) as replies:
                    async for reply in replies:
                        stream_observer.sent()
                        yield reply
            except BaseException as error:
                await stream_observer.failed(began, error, context)
                raise
            stream_observer.done(began, _OK)

        return grpc.unary_stream_rpc_method_handler(stream, **codecs)


class _Messages:
    """The messages of a stream, counted. After the DecodeError of one that is no message the next can still be read."""

    def __init__(self, context: Context, observer: _Observer) -> None:
        self._context = context
        self._observer = observer

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        self._observer.received()
        return message


class _Observer:
    """Counts and names the calls of one method, and turns what they raise into a status."""

    def __init__(self, path: str, metrics: MethodMetrics, log_calls: bool) -> None:
        self._path = path
        self._metrics = metrics
        self._log_calls = log_calls

    def begin(self, context: Context, received: int = 1) -> float:
        """Seconds on the monotonic clock at which the call began, with so many messages."""
        self._metrics.started += 1
        self._metrics.received += received
        request_id.set(_request_id(context))
        return time.monotonic()

    def received(self) -> None:
        self._metrics.received += 1

    def sent(self) -> None:
        self._metrics.sent += 1

    def done(self, began: float, code: grpc.StatusCode, details: str = "") -> None:
        seconds = time.monotonic() - began
        self._metrics.seconds.observe(seconds)
        self._metrics.handled[_IN_METRICS[code]] += 1
        if self._log_calls or code not in _COUNTED_ONLY:
            log.info(
                "call",
                method=self._path,
                code=code.name,
                seconds=round(seconds, 6),
                request_id=request_id.get(),
                details=details,
            )

    async def failed(self, began: float, error: BaseException, context: Context) -> None:
        """Count the call, and end it with the error's status unless its caller has left."""
        # A caller that leaves cancels the handler, or has an unfinished stream thrown away.
        if not isinstance(error, Exception):
            self.done(began, _CANCELLED)
            return
        identity = request_id.get()
        if not isinstance(error, ServerError):
            log.error("call failed", method=self._path, request_id=identity, exc_info=error)
            error = Internal(f"{type(error).__name__}: {error}")
        code, message, trailers = status(error, identity)
        self.done(began, code, message)
        await context.abort(code, message, trailers)


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return f"{_OURS}{next(_numbers):016x}"
