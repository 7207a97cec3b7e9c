"""What the client tells of the span that its caller is in; the rest is tests/integration/test_tracing.py."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ancestral_client import tracing
from ancestral_client.errors import InvalidArgument

# Here, since the SDK adds to the filters of warnings when it makes one.
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def test_the_current_span_goes_with_a_call_and_nothing_where_there_is_none() -> None:
    assert tracing.headers() == ()
    with TRACER.start_as_current_span("mine") as span:
        context = span.get_span_context()
        told = dict(tracing.headers())
    assert told["traceparent"].split("-")[1:3] == [f"{context.trace_id:032x}", f"{context.span_id:016x}"]
    assert tracing.headers() == ()


@pytest.mark.parametrize(
    "collector", ["", "ftp://localhost", "http://me:secret@localhost", "http://localhost/v1/traces"]
)
def test_what_is_no_collector_is_refused(collector: str) -> None:
    with pytest.raises(InvalidArgument, match="must be http://HOST:PORT"), tracing.traced("work", collector):
        pass


def test_to_ask_for_a_trace_needs_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with (
        pytest.raises(InvalidArgument, match=r"tracing is not installed: pip install 'ancestral\[tracing\]'"),
        tracing.traced("work", "http://localhost:4317"),
    ):
        pass
