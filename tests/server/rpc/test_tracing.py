"""Which calls are traced, and what the others pay for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from structlog.testing import capture_logs

from ancestral_server import app
from ancestral_server.engine.job import OneShotJob
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.collector import MOST_LINKS, Collector
from ancestral_server.rpc.opentelemetry_workarounds.encoding import encode
from ancestral_server.rpc.recorders import CallMetrics, FailureLog
from ancestral_server.rpc.recording import Call, CallRecorder, End, Headers, Method, Recorders
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.rpc.tracing import Tracing
from ancestral_server.settings import Settings

METHOD = Method("unary", "a.Service", "Encode")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
# As a client of gRPC sends them, and one that traces nothing.
HEADERS: Headers = (("user-agent", "grpc-python"), ("x-request-id", "mine"), ("grpc-accept-encoding", "gzip"))
# Here, since it adds to the filters of warnings.
TRACER: Any = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False).get_tracer("ancestral_server", "test")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def collector(metrics: Metrics) -> Iterator[Collector]:
    """One that nobody hears."""
    made = Collector("http://127.0.0.1:1", "test", metrics)
    yield made
    made.close(0)


def arriving(recorders: CallRecorder) -> tuple[Call, OneShotJob]:
    """A call whose headers are about to be told of, and what it will have done: an image encoded."""
    loop = asyncio.new_event_loop()
    job = OneShotJob(1, loop.create_future())
    loop.close()
    return Call(METHOD, "mine", recorders), job


def live(call: Call, job: OneShotJob, headers: Headers = HEADERS) -> None:
    """Tell its recorders of it, from its beginning to its end."""
    call.recorder.arrived(call, headers)
    call.recorder.begin(call)
    call.recorder.received(call)
    call.recorder.asked(call, job)
    call.recorder.admitted(call, job)
    call.recorder.ran(call, job)
    call.recorder.sent(call)
    call.recorder.ended(call, End(grpc.StatusCode.OK, 0.001))


def all_calls(metrics: Metrics) -> Sequence[CallRecorder]:
    """Who is told of every call, as the server has them."""
    recorders = [CallMetrics(metrics), FailureLog(RefusalLog())]
    for recorder in recorders:
        recorder.serve(METHOD)
    return recorders


def functions(recorders: CallRecorder) -> int:
    """How many functions of Python are called for a call."""
    call, job = arriving(recorders)
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        live(call, job)
    finally:
        sys.setprofile(before)
    return count


def test_a_call_that_is_not_traced_pays_for_the_choice_alone(metrics: Metrics, collector: Collector) -> None:
    everywhere = all_calls(metrics)
    without = functions(Recorders(everywhere))
    # Who asks for nothing is told that a call has arrived by a function that does nothing.
    assert functions(Recorders(everywhere, Tracing(collector, 0.0, metrics))) == without
    assert functions(Recorders(everywhere, Tracing(collector, 1.0, metrics))) > without + 20


@pytest.mark.parametrize(
    ("ratio", "more", "traced"),
    [
        (0.0, (), False),
        (1.0, (), True),
        (0.0, (("traceparent", f"{PARENT}1"),), True),
        (1.0, (("traceparent", f"{PARENT}0"),), False),
        (1.0, (("traceparent", "none"),), True),
        (0.0, (("traceparent", "none"),), False),
        (0.0, (("tracestate", "theirs=1"),), False),
    ],
)
def test_who_is_told_of_a_call(
    metrics: Metrics, collector: Collector, ratio: float, more: Headers, traced: bool
) -> None:
    recorders = Recorders(all_calls(metrics), Tracing(collector, ratio, metrics))
    call, job = arriving(recorders)
    live(call, job, (*HEADERS, *more))
    assert (call.recorder is not recorders) is (call.trace is not None) is traced
    assert metrics.method("unary", "a.Service", "Encode").handled["OK"] == 1


def test_spans_that_are_over_are_as_the_tracer_makes_them_and_are_written_as_opentelemetry_does(
    metrics: Metrics, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: list[ReadableSpan] = []
    monkeypatch.setattr(collector._processor, "on_end", ours.append)
    # Of the resource that the collector has.
    monkeypatch.setattr(TRACER, "resource", collector._resource)
    state = TraceState([("theirs", "1"), ("others", "2")])
    brought = SpanContext(2**127, 2**63, True, TraceFlags(TraceFlags.SAMPLED), state)
    below = trace.set_span_in_context(trace.NonRecordingSpan(brought))
    theirs: list[Any] = []
    for parent, context in ((brought, below), (None, Context())):
        call = TRACER.start_span("call", context, SpanKind.SERVER, {"text": "a", "number": 3}, (), 1)
        call.add_event("first message", timestamp=2)
        call.set_status(Status(StatusCode.ERROR, "why"))
        call.end(4)
        linked = [call.get_span_context(), brought]
        run = TRACER.start_span(
            "run", trace.set_span_in_context(call, Context()), links=map(Link, linked), start_time=2
        )
        run.end(3)
        theirs += [call, run]
        event, status = Event("first message", {}, 2), Status(StatusCode.ERROR, "why")
        mine = collector.below(parent)
        collector.add(
            "call", mine, parent, 1, 4, {"text": "a", "number": 3}, kind=SpanKind.SERVER, events=[event], status=status
        )
        collector.add("run", collector.below(mine), mine, 2, 3, {}, links=[mine, brought])
    # But for the numbers, which are random.
    assert len({span.context.span_id for span in ours}) == 4
    for span, like in zip(ours, theirs, strict=True):
        for field in ("_context", "_parent"):
            mine, other = getattr(span, field), getattr(like, field)
            assert (mine and mine[2:]) == (other and other[2:])
            setattr(span, field, other)
        span._links = like.links
    assert encode(ours) == encode_spans(ours) == encode_spans(theirs)


def test_more_calls_than_a_span_links_are_left_out(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[ReadableSpan] = []
    monkeypatch.setattr(collector._processor, "on_end", ended.append)
    parent = collector.below(None)
    collector.add("batch", collector.below(parent), parent, 1, 2, {}, links=[parent] * (MOST_LINKS + 1))
    assert len(ended[0].links) == MOST_LINKS


def test_opentelemetry_is_the_one_that_was_measured() -> None:
    """Another one may write spans fast enough, or have them written in another place: see the workaround."""
    assert metadata.version("opentelemetry-exporter-otlp-proto-grpc").startswith("1.45.")
    assert "_translate_data" in vars(OTLPSpanExporter)


@pytest.mark.parametrize("value", ["true", " TRUE "])
def test_where_opentelemetry_is_switched_off_nothing_is_traced_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics, value: str
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    with capture_logs() as lines:
        assert app._tracing(Settings(models=Path("m"), otlp_endpoint="http://localhost:4317"), metrics) is None
    assert [line["event"] for line in lines] == ["nothing is traced, since OTEL_SDK_DISABLED is true"]
