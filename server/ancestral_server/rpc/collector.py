"""The way of spans to a collector: a bounded queue, a thread that empties it, and what is said where that goes wrong.

A collector that is away, or slow, costs spans and never a call: what finds too many waiting is dropped and counted.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ancestral_server.metrics import Metrics
from ancestral_server.rpc.opentelemetry_workarounds.encoding import Exporter

log = structlog.get_logger()

# Spans that wait for the collector, at most, those of some 300 calls: OpenTelemetry's own bound.
MOST_WAITING = 2048
# Calls that a span links, at most: OpenTelemetry's own bound.
MOST_LINKS = 128
# Of a span that says nothing of how it went.
UNSET = Status(StatusCode.UNSET)
# Of a trace that begins here: it is sampled, and its id is random, which others may rely on.
_NEW_TRACE = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
# Of the end: a collector that is there has the last spans within milliseconds.
FLUSH_SECONDS = 2.0


class Collector:
    """Where spans go.

    Where the collector is, and whether by TLS, is `endpoint`'s, an URL; everything else about it, as headers and
    certificates, OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_*) say, and OTEL_SERVICE_NAME and
    OTEL_RESOURCE_ATTRIBUTES what the server is called.

    Spans are made when they are over, and not by OpenTelemetry's tracer: for a call of six it takes 310 µs of CPU, and
    this 66, since what is over needs no sampler, no locks and no copies. tests/server/rpc/test_tracing.py holds them
    against the tracer's.
    """

    def __init__(self, endpoint: str, version: str, metrics: Metrics) -> None:
        metrics.traces()
        self._exporter = Exporter(endpoint=endpoint)
        self._processor = Bounded(Told(self._exporter, endpoint, metrics), metrics)
        ours = {
            "service.name": "ancestral-server",
            "service.version": version,
            # One of several processes, too.
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        self._resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("ancestral_server", version)
        self._ids = RandomIdGenerator()

    def below(self, parent: SpanContext | None) -> SpanContext:
        """The name of a new span, in its parent's trace or in one of its own."""
        if parent is None:
            trace_id, flags, state = self._ids.generate_trace_id(), _NEW_TRACE, None
        else:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        return SpanContext(trace_id, self._ids.generate_span_id(), False, flags, state)

    def add(
        self,
        name: str,
        span: SpanContext,
        parent: SpanContext | None,
        began: int,
        ended: int,
        attributes: Mapping[str, str | int],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[SpanContext] = (),
        events: Sequence[Event] = (),
        status: Status = UNSET,
    ) -> None:
        """Take a span that is over. began, ended: nanoseconds of the epoch."""
        self._processor.on_end(
            ReadableSpan(
                name,
                span,
                parent,
                self._resource,
                attributes,
                events,
                [Link(each) for each in itertools.islice(links, MOST_LINKS)] if links else (),
                kind,
                status=status,
                start_time=began,
                end_time=ended,
                instrumentation_scope=self._scope,
            )
        )

    def close(self, seconds: float) -> None:
        """Bring what waits to the collector, for so long at most, and no more."""
        last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(min(seconds, FLUSH_SECONDS))
        if last.is_alive():
            # The flush is waiting to try again.
            self._exporter.shutdown()


class Bounded(SpanProcessor):
    """The SDK's batches, behind a bound of our own: theirs drops what is too much without counting it."""

    def __init__(self, exporter: Told, metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._batches: Any = BatchSpanProcessor(exporter, max_queue_size=MOST_WAITING)
        # Written by the event loop only, as the exporter's count is by its thread.
        self._taken = 0

    @property
    def room(self) -> bool:
        """Whether one more may wait."""
        return self._taken - self._exporter.settled < MOST_WAITING

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if not self.room:
            self._metrics.spans("dropped", 1)
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._batches.force_flush(timeout_millis))


class Told(SpanExporter):
    """An exporter that counts, and says once that spans do not arrive and once that they do again."""

    def __init__(self, exporter: SpanExporter, endpoint: str, metrics: Metrics) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._metrics = metrics
        self._reason = _Reason()
        self._failed = 0
        # Spans that have left the queue, whatever became of them.
        self.settled = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.settled += len(spans)
            self._tell(len(spans), arrived=result is SpanExportResult.SUCCESS)
        return result

    def _tell(self, spans: int, *, arrived: bool) -> None:
        self._metrics.spans("sent" if arrived else "failed", spans)
        reason = self._reason.take()
        if arrived and self._failed:
            log.info("spans arrive again", collector=self._endpoint, lost=self._failed)
        elif not arrived and not self._failed:
            log.warning("spans do not arrive", collector=self._endpoint, reason=reason)
        self._failed = 0 if arrived else self._failed + spans

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Reason(logging.Handler):
    """Keeps what OpenTelemetry logs, a line for every attempt, from the log."""

    def __init__(self) -> None:
        super().__init__()
        self._first = ""
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.handlers[:] = [self]

    def take(self) -> str:
        """The first that it said since it was last asked: what follows is about trying again."""
        first, self._first = self._first, ""
        return first

    def emit(self, record: logging.LogRecord) -> None:
        self._first = self._first or record.getMessage()
