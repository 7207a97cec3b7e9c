"""Spans that a collector does not take: they are bounded in number, counted, and told of once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from structlog.testing import capture_logs

from ancestral_server.metrics import Metrics
from ancestral_server.rpc.collector import MOST_WAITING, Bounded, Told

PROVIDER = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
TRACER = PROVIDER.get_tracer("test")


class Stubborn(SpanExporter):
    """Takes nothing until it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go_on.wait()
        if self.result is not SpanExportResult.SUCCESS:
            logging.getLogger("opentelemetry.exporter").warning("as it is away")
        return self.result


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """What others log of OpenTelemetry goes where it went."""
    logger = logging.getLogger("opentelemetry")
    before = logger.propagate, list(logger.handlers)
    yield
    logger.propagate, logger.handlers[:] = before


def ended_span() -> ReadableSpan:
    span = TRACER.start_span("of nobody")
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def spans(metrics: Metrics) -> dict[str, float]:
    text = metrics.scrape(False).decode()
    return {
        name: float(text.partition(f'ancestral_spans_total{{outcome="{name}"}} ')[2].split()[0])
        for name in ("sent", "failed", "dropped")
    }


def test_what_is_too_much_for_a_collector_is_dropped_and_counted_and_the_rest_is_sent() -> None:
    metrics, exporter = Metrics("test"), Stubborn()
    metrics.traces()
    bounded = Bounded(Told(exporter, "there", metrics), metrics)
    span = ended_span()
    for _ in range(MOST_WAITING + 100):
        bounded.on_end(span)
    assert spans(metrics) == {"sent": 0, "failed": 0, "dropped": 100}
    exporter.go_on.set()
    bounded.shutdown()
    assert spans(metrics) == {"sent": MOST_WAITING, "failed": 0, "dropped": 100}
    # There is room again.
    assert bounded.room


def test_a_collector_that_comes_and_goes_is_told_of_once_each_time() -> None:
    metrics, exporter = Metrics("test"), Stubborn()
    exporter.go_on.set()
    told = Told(exporter, "there", metrics)
    with capture_logs() as lines:
        for result in (
            SpanExportResult.FAILURE,
            SpanExportResult.FAILURE,
            SpanExportResult.SUCCESS,
            SpanExportResult.SUCCESS,
        ):
            exporter.result = result
            told.export([ended_span()] * 3)
    assert lines == [
        {"event": "spans do not arrive", "collector": "there", "reason": "as it is away", "log_level": "warning"},
        {"event": "spans arrive again", "collector": "there", "lost": 6, "log_level": "info"},
    ]
    assert told.settled == 12
