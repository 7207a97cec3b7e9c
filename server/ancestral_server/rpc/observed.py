"""Around every call of our services: request id, counts, log, errors to status. Health and reflection pass by.

Methods are wrapped once, when they are registered, and not by an interceptor of grpc's: that costs every call a
coroutine and a search for its handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import Infeasible, Internal, OutOfMemory, Overloaded, ServerError
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc import parsing
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.parsing import Context, Handler
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.rpc.status import camel_case, status

log = structlog.get_logger()

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Ids of calls that bring none: as unlikely to meet another server's as a random one, at the price of a counter.
_OURS = secrets.token_hex(8)
_numbers = itertools.count(1)
# Refused before any work, or as there is no room for any: what comes by the thousand when it comes.
_REFUSALS = (Overloaded, OutOfMemory, Infeasible)
# How late gRPC may be to end a call whose deadline has passed.
EXPIRY_SECONDS = 1.0


class Observed(parsing.Registered):
    """Stands in for the server when a generated `add_..._to_server` registers its methods: keeps them, wrapped.

    readers: by path, what reads the requests of a method in place of the generated parser.
    """

    def __init__(
        self,
        metrics: Metrics,
        arrivals: Arrivals,
        draining: Draining,
        readers: Mapping[str, Callable[[bytes], Any]],
        refusals: RefusalLog,
        *,
        log_calls: bool,
    ) -> None:
        super().__init__()
        self._refusals = refusals
        self._readers = readers
        self._metrics = metrics
        self._draining = draining
        self._arrivals = arrivals
        self._log_calls = log_calls

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        handler = super().service(handler_call_details)
        if handler is not None:
            self._arrivals.begin(time.monotonic())
            # Here, where gRPC shows them anyway: the handler runs in the same context, and would have them made anew.
            request_id.set(_request_id(handler_call_details.invocation_metadata))
        return handler

    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        path = f"/{service}/{method}"

        def observer(kind: str) -> _Observer:
            metrics = self._metrics.method(kind, service, method)
            return _Observer(path, metrics, self._arrivals, self._draining, self._refusals, self._log_calls)

        codecs = (self._readers.get(path, handler.request_deserializer), handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(_unary(observer("unary"), handler.unary_unary), *codecs)
        if handler.stream_stream is not None:
            kind, behaviour = "bidi_stream", _bidi(handler.stream_stream)
        else:
            assert handler.unary_stream is not None, f"{method}: no method takes a stream and gives one answer"
            kind, behaviour = "server_stream", _server_stream(handler.unary_stream)
        return grpc.stream_stream_rpc_method_handler(_stream(observer(kind), behaviour), *codecs)


def _unary(observer: _Observer, behaviour: Any) -> Any:
    async def call(_: Any, context: Context) -> Any:
        began = observer.begin(context)
        try:
            reply = await behaviour(await observer.read(context), context)
        except BaseException as error:
            await observer.failed(began, error, context)
            raise
        observer.sent()
        observer.succeeded(began)
        return reply

    return call


def _stream(observer: _Observer, behaviour: Any) -> Any:
    async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
        began = observer.begin(context)
        try:
            async with aclosing(await behaviour(observer, context)) as replies:
                async for reply in replies:
                    observer.sent()
                    yield reply
        except BaseException as error:
            await observer.failed(began, error, context)
            raise
        observer.succeeded(began)

    return stream


def _server_stream(behaviour: Any) -> Any:
    async def replies(observer: _Observer, context: Context) -> Any:
        return behaviour(await observer.read(context), context)

    return replies


def _bidi(behaviour: Any) -> Any:
    async def replies(observer: _Observer, context: Context) -> Any:
        # Its messages join batches of their own accord: nobody need wait for them.
        observer.arrived()
        return behaviour(_Messages(context, observer), context)

    return replies


class _Messages:
    """The messages of a stream, counted. After the DecodeError of one that is no message the next can still be read."""

    def __init__(self, context: Context, observer: _Observer) -> None:
        self._context = context
        self._observer = observer

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await parsing.read(self._context)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        self._observer.received()
        return message


class _Observer:
    """Counts and names the calls of one method, and turns what they raise into a status."""

    def __init__(
        self,
        path: str,
        metrics: MethodMetrics,
        arrivals: Arrivals,
        draining: Draining,
        refusals: RefusalLog,
        log_calls: bool,
    ) -> None:
        self._refusals = refusals
        self._path = path
        self._draining = draining
        self._metrics = metrics
        self._log_calls = log_calls
        # The headers that the door has seen are followed by their message, or nobody need wait for it any more.
        self.arrived = arrivals.read

    def begin(self, context: Context) -> float:
        """Seconds on the monotonic clock at which the call began."""
        self._metrics.started += 1
        self._draining.opened(context)
        return time.monotonic()

    async def read(self, context: Context) -> Any:
        """The message of a call that has one; InvalidArgument where there is none that can be read."""
        try:
            request = await parsing.one(context)
        finally:
            self.arrived()
        self._metrics.received += 1
        return request

    def received(self) -> None:
        self._metrics.received += 1

    def sent(self) -> None:
        self._metrics.sent += 1

    def succeeded(self, began: float) -> None:
        # By itself, since nearly all calls do: a status code is hashed in Python.
        seconds = time.monotonic() - began
        self._metrics.seconds.observe(seconds)
        self._metrics.handled["OK"] += 1
        if self._log_calls:
            self._log(seconds, grpc.StatusCode.OK)

    def _ended(
        self, began: float, code: grpc.StatusCode, details: str = "", refusal: ServerError | None = None
    ) -> None:
        """refusal: what is told of it in a line for many, and not in one of its own."""
        seconds = time.monotonic() - began
        self._metrics.seconds.observe(seconds)
        self._metrics.handled[camel_case(code)] += 1
        if refusal is not None:
            self._refusals.add(refusal.reason, refusal.lane or self._path, details)
        if self._log_calls or refusal is None:
            self._log(seconds, code, details)

    def _log(self, seconds: float, code: grpc.StatusCode, details: str = "") -> None:
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
            self._ended(began, grpc.StatusCode.CANCELLED)
            return
        identity = request_id.get()
        if not isinstance(error, ServerError):
            log.error("call failed", method=self._path, request_id=identity, exc_info=error)
            error = Internal(f"{type(error).__name__}: {error}")
        code, message, trailers = status(error, identity)
        # It knows the frames that it passed, one of them the job, this its future, and that the error: they would keep
        # each other, and the images, until garbage is collected.
        error.__traceback__ = None
        self._ended(began, code, message, error if isinstance(error, _REFUSALS) else None)
        if _expired(context):
            # Its caller no longer listens, and gRPC ends the call itself, which cancels this handler. A status sent
            # besides would leave some 80 bytes behind, each time and for good (grpc.aio 1.85).
            await asyncio.sleep(EXPIRY_SECONDS)
        await context.abort(code, message, trailers)


def _expired(context: Context) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0


def _request_id(metadata: Sequence[tuple[str, str | bytes]] | None) -> str:
    for key, value in metadata or ():
        if key == "x-request-id" and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return f"{_OURS}{next(_numbers):016x}"
