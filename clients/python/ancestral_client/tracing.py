"""Traces: a call tells the server which span of its caller's it belongs to; `traced` makes one for who has none.

Nothing of OpenTelemetry is imported unless the caller has imported it, or asks for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from ancestral_client.errors import invalid

_COLLECTOR = re.compile(r"(https?://)?[^/@\s?#]+/?", re.IGNORECASE)
# A collector that is there takes a span within milliseconds.
_SECONDS = 2.0
_PARENT = "TRACEPARENT"
_EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"


def headers() -> tuple[tuple[str, str], ...]:
    """What goes with a call, for whatever traces it on its way: the current span, if there is one."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    found: dict[str, str] = {}
    propagate.inject(found)
    return tuple((name.lower(), value) for name, value in found.items())


def installed() -> bool:
    """Whether `traced` has what it needs."""
    try:
        return find_spec("opentelemetry.sdk") is not None and find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:  # nor is what they are part of
        return False


@contextmanager
def traced(name: str, collector: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Traces what is done within, as one span: those of the server's for its calls are below it. Gives the trace's id.

    The span goes to a `collector`, http://HOST:PORT of OTLP over gRPC, when the block ends; where that is away, only
    OpenTelemetry's own log says so. It is part of the current span, or of what TRACEPARENT says in the `environment`.
    InvalidArgument if it is no such URL, or OpenTelemetry is not installed.

    >>> with traced("morning run", "http://localhost:4317") as trace_id:  # doctest: +SKIP
    ...     client.encode("digits-vae", images)
    """
    found = _COLLECTOR.fullmatch(collector)
    if not found:
        raise invalid("collector", f"is {collector!r}, must be http://HOST:PORT, or https://")
    if not installed():
        raise invalid("collector", f"is {collector!r}, and tracing is not installed: pip install 'ancestral[tracing]'")
    from importlib import metadata

    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = None
    if environment and not trace.get_current_span().get_span_context().is_valid:
        parent = TraceContextTextMapPropagator().extract({"traceparent": environment.get(_PARENT, "")})
    version = metadata.version("ancestral")
    ours = Resource.create({"service.name": "ancestral-client", "service.version": version})
    resource = ours.merge(OTELResourceDetector().detect())
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    url = collector if found[1] else f"http://{collector}"
    try:
        exporter = OTLPSpanExporter(endpoint=url, timeout=_SECONDS)
    except Exception as error:  # of OpenTelemetry's own variables, such as one for a compression that there is not
        raise invalid("collector", f"is {collector!r}, and nothing can be sent there: {error}") from error
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("ancestral_client", version)
    try:
        with tracer.start_as_current_span(name, parent, record_exception=False) as span:
            yield trace.format_trace_id(span.get_span_context().trace_id)
    finally:
        provider.shutdown()
