"""Spans are written as protobuf here.

What:   an exporter that writes what it sends by itself: spans of one resource and scope, whose attributes are texts and
        whole numbers, as ours are.
Why:    OpenTelemetry's own way to write them takes three times as long: it makes a message for each part and copies it
        into the next. Those of a call, six, took 190 µs of CPU there and take 56 µs here; where 1 % of the calls are
        traced, that is 1 % of what an Encode costs.
Since:  1.45.
Costs:  it leans on a method that is the exporter's own. If that goes, OpenTelemetry writes the spans, and they are the
        same.
Goes:   tests/server/rpc/test_tracing.py::test_opentelemetry_is_the_one_that_was_measured
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Status as WrittenStatus
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode

_CODES = {
    StatusCode.UNSET: WrittenStatus.STATUS_CODE_UNSET,
    StatusCode.OK: WrittenStatus.STATUS_CODE_OK,
    StatusCode.ERROR: WrittenStatus.STATUS_CODE_ERROR,
}
_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Exporter(OTLPSpanExporter):
    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """The message that sends spans, at least one; all are of the first one's resource and scope."""
    # What comes once is OpenTelemetry's to write.
    request = encode_spans(spans[:1])
    written = request.resource_spans[0].scope_spans[0].spans
    del written[:]
    for span in spans:
        context, parent = span.context, span.parent
        one = written.add(
            trace_id=context.trace_id.to_bytes(16, "big"),
            span_id=context.span_id.to_bytes(8, "big"),
            trace_state=_state(context),
            name=span.name,
            # OpenTelemetry's kinds begin with the one that the protocol counts as its second.
            kind=span.kind.value + 1,
            start_time_unix_nano=span.start_time,
            end_time_unix_nano=span.end_time,
            flags=_REMOTE if parent is not None and parent.is_remote else _LOCAL,
        )
        if parent is not None:
            one.parent_span_id = parent.span_id.to_bytes(8, "big")
        if span.attributes:
            _write(one.attributes, span.attributes)
        for link in span.links:
            one.links.add(
                trace_id=link.context.trace_id.to_bytes(16, "big"),
                span_id=link.context.span_id.to_bytes(8, "big"),
                flags=_REMOTE if link.context.is_remote else _LOCAL,
            )
        for event in span.events:
            _write(one.events.add(name=event.name, time_unix_nano=event.timestamp).attributes, event.attributes or {})
        one.status.code = _CODES[span.status.status_code]
        if span.status.description:
            one.status.message = span.status.description
    return request


def _state(context: SpanContext) -> str:
    return ",".join(f"{key}={value}" for key, value in context.trace_state.items()) if context.trace_state else ""


def _write(attributes: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        into = attributes.add(key=key).value
        if isinstance(value, str):
            into.string_value = value
        else:
            into.int_value = value
