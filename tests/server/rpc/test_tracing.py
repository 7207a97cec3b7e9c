"""Which calls are traced, and what the others pay for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from structlog.testing import capture_logs

from ancestral_server import app
from ancestral_server.engine.job import OneShotJob
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.collector import MOST_LINKS, Collector
from ancestral_server.rpc.recorders import CallMetrics, FailureLog
from ancestral_server.rpc.recording import Call, CallRecorder, End, Headers, Method, Recorders
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.rpc.tracing import Tracing
from ancestral_server.settings import Settings

METHOD = Method("unary", "a.Service", "Encode")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
# As a client of gRPC sends them, and one that traces nothing.
HEADERS: Headers = (("user-agent", "grpc-python"), ("x-request-id", "mine"), ("grpc-accept-encoding", "gzip"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def collector(metrics: Metrics) -> Iterator[Collector]:
    """One that nobody hears."""
    made = Collector("http://127.0.0.1:1", "test", metrics)
    yield made
    made.close(0)


def life(recorders: CallRecorder, headers: Headers = HEADERS) -> Call:
    """A call that encodes an image, as its recorders hear of it."""
    call = Call(METHOD, "mine", recorders)
    job = OneShotJob(1, asyncio.Future(loop=asyncio.new_event_loop()))
    job.future.get_loop().close()
    recorders.arrived(call, headers)
    call.recorder.begin(call)
    call.recorder.received(call)
    call.recorder.asked(call, job)
    call.recorder.admitted(call, job)
    call.recorder.ran(call, job)
    call.recorder.sent(call)
    call.recorder.ended(call, End(grpc.StatusCode.OK, 0.001))
    return call


def all_calls(metrics: Metrics) -> Sequence[CallRecorder]:
    """Who is told of every call, as the server has them."""
    recorders = [CallMetrics(metrics), FailureLog(RefusalLog())]
    for recorder in recorders:
        recorder.serve(METHOD)
    return recorders


def functions(recorders: CallRecorder) -> int:
    """How many functions of Python are called for a call."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        life(recorders)
    finally:
        sys.setprofile(before)
    return count


def test_a_call_that_is_not_traced_pays_for_the_choice_alone(metrics: Metrics, collector: Collector) -> None:
    everywhere = all_calls(metrics)
    without = functions(Recorders(everywhere))
    # The choice, and who asks for it.
    assert functions(Recorders(everywhere, Tracing(collector, 0.0, metrics))) == without + 2
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
    call = life(recorders, (*HEADERS, *more))
    assert (call.recorder is not recorders) is (call.trace is not None) is traced
    assert metrics.method("unary", "a.Service", "Encode").handled["OK"] == 1


def test_spans_that_are_over_are_as_the_tracer_makes_them(
    metrics: Metrics, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[ReadableSpan] = []
    monkeypatch.setattr(collector._processor, "on_end", ended.append)
    parent = collector.tracer.start_span("call")
    context = parent.get_span_context()
    collector.add(context, "run", 1, 2, {"rows": 3}, [context] * (MOST_LINKS + 1))
    child = collector.tracer.start_span("run")
    child.end()
    ours, theirs = ended
    assert (ours.name, ours.start_time, ours.end_time, ours.attributes) == ("run", 1, 2, {"rows": 3})
    assert ours.context is not None
    assert ours.context.trace_id == context.trace_id
    assert ours.context.span_id != context.span_id
    assert ours.context.trace_flags.sampled
    assert ours.parent == context
    assert len(ours.links) == MOST_LINKS
    assert (ours.resource, ours.instrumentation_scope, ours.kind, ours.status.status_code) == (
        theirs.resource,
        theirs.instrumentation_scope,
        theirs.kind,
        theirs.status.status_code,
    )
    assert hash(ours.resource) == hash(theirs.resource)


@pytest.mark.parametrize("value", ["true", " TRUE "])
def test_where_opentelemetry_is_switched_off_nothing_is_traced_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics, value: str
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    with capture_logs() as lines:
        assert app._tracing(Settings(models=Path("m"), otlp_endpoint="http://localhost:4317"), metrics) is None
    assert [line["event"] for line in lines] == ["nothing is traced, since OTEL_SDK_DISABLED is true"]
