"""Around every unary call of our services: request id, metrics, log, errors to status. Health passes by."""

from __future__ import annotations

import asyncio
import contextvars
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import Internal, ServerError
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc.status import camel_case, status

log = structlog.get_logger()

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


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
        if handler is None or not path.startswith(self._prefix) or handler.unary_unary is None:
            return handler
        service, method = path[1:].split("/", 1)
        wrapped = grpc.unary_unary_rpc_method_handler(
            self._wrap(handler.unary_unary, path, self._metrics.method("unary", service, method)),  # type: ignore[arg-type]
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        self._wrapped[path] = wrapped
        self._arrivals.begin(time.monotonic())
        return wrapped

    def _wrap(self, behaviour: Behaviour, path: str, metrics: MethodMetrics) -> Behaviour:
        handled_ok = metrics.handled["OK"]

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._arrivals.read()
            began = time.monotonic()
            metrics.started.inc()
            metrics.received.inc()
            identity = _request_id(context)
            request_id.set(identity)
            code = grpc.StatusCode.OK
            try:
                reply = await behaviour(request, context)
                metrics.sent.inc()
                return reply
            except ServerError as error:
                code, message, trailers = status(error, identity)
                await context.abort(code, message, trailers)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code = grpc.StatusCode.INTERNAL
                log.exception("call failed", method=path, request_id=identity)
                _, message, trailers = status(Internal(f"{type(error).__name__}: {error}"), identity)
                await context.abort(code, message, trailers)
            finally:
                seconds = time.monotonic() - began
                metrics.seconds.observe(seconds)
                (handled_ok if code is grpc.StatusCode.OK else metrics.handled[camel_case(code)]).inc()
                if self._log_calls or code is not grpc.StatusCode.OK:
                    details = context.details() if code is not grpc.StatusCode.OK else ""
                    log.info(
                        "call",
                        method=path,
                        code=code.name,
                        seconds=round(seconds, 6),
                        request_id=identity,
                        details=details,
                    )

        return call


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
