"""Around every call of our services: request id, metrics, log, errors to status. Health passes by."""

from __future__ import annotations

import contextvars
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any

import grpc
import structlog

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import Internal, ServerError
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc import parsing
from ancestral_server.rpc.status import camel_case, status

log = structlog.get_logger()

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")

Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method once; afterwards a call costs one dictionary look-up here."""

    def __init__(self, metrics: Metrics, arrivals: Arrivals, prefix: str, *, log_calls: bool) -> None:
        self._metrics = metrics
        self._arrivals = arrivals
        self._prefix = f"/{prefix}"
        self._log_calls = log_calls
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if path in self._wrapped:
            self._arrivals.begin(time.monotonic())
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not path.startswith(self._prefix):
            return parsing.forgiving(handler)
        wrapped = self._wrap(path, handler)
        self._wrapped[path] = wrapped
        self._arrivals.begin(time.monotonic())
        return wrapped

    def _wrap(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        service, method = path[1:].split("/", 1)
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            metrics = self._metrics.method("unary", service, method)
            behaviour: Any = handler.unary_unary

            async def call(_: Any, context: Context) -> Any:
                async with _Observed(path, metrics, context, self._log_calls):
                    request = await parsing.one(context)
                    self._arrivals.read()
                    reply = await behaviour(request, context)
                    metrics.sent.inc()
                    return reply

            return grpc.stream_unary_rpc_method_handler(call, **codecs)

        assert handler.unary_stream is not None, f"{path}: no method takes a stream"
        stream_metrics = self._metrics.method("server_stream", service, method)
        stream_behaviour: Any = handler.unary_stream

        async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
            async with _Observed(path, stream_metrics, context, self._log_calls):
                request = await parsing.one(context)
                self._arrivals.read()
                async with aclosing(stream_behaviour(request, context)) as replies:
                    async for reply in replies:
                        stream_metrics.sent.inc()
                        yield reply

        return grpc.stream_stream_rpc_method_handler(stream, **codecs)


class _Observed:
    """Around the body of one call: counts it, names it, and turns what it raises into a status."""

    __slots__ = ("_began", "_context", "_identity", "_log_call", "_metrics", "_path")

    def __init__(self, path: str, metrics: MethodMetrics, context: Context, log_call: bool) -> None:
        self._path = path
        self._metrics = metrics
        self._context = context
        self._log_call = log_call

    async def __aenter__(self) -> None:
        self._began = time.monotonic()
        self._metrics.started.inc()
        self._metrics.received.inc()
        self._identity = _request_id(self._context)
        request_id.set(self._identity)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._record(grpc.StatusCode.OK, "")
            return
        # A caller that leaves cancels the handler, or has an unfinished stream thrown away.
        if not isinstance(error, Exception):
            self._record(grpc.StatusCode.CANCELLED, "")
            return
        if isinstance(error, ServerError):
            code, message, trailers = status(error, self._identity)
        else:
            log.error("call failed", method=self._path, request_id=self._identity, exc_info=error)
            code, message, trailers = status(Internal(f"{type(error).__name__}: {error}"), self._identity)
        self._record(code, message)
        await self._context.abort(code, message, trailers)

    def _record(self, code: grpc.StatusCode, details: str) -> None:
        seconds = time.monotonic() - self._began
        self._metrics.seconds.observe(seconds)
        self._metrics.handled[camel_case(code)].inc()
        if self._log_call or code is not grpc.StatusCode.OK:
            log.info(
                "call",
                method=self._path,
                code=code.name,
                seconds=round(seconds, 6),
                request_id=self._identity,
                details=details,
            )


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
