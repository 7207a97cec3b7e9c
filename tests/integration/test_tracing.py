"""Traces of real calls by a real client, as a collector gets them; exemplars and the log that name them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import AsyncClient, Client, tracing
from collector import Collector
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import inference, tensor, toy_images

SERVICE = "ancestral.v1.InferenceService"
# A busy machine may run three images one by one.
STAGES = {"Encode": r"read( queue batch run)+ reply", "SampleStream": r"read queue rows reply"}
TRACER = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False).get_tracer("test")
UNSAMPLED = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
READ_METRICS: Any = text_string_to_metric_families


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(toy_models: Path, collector: Collector) -> Iterator[ServerProcess]:
    """Traces what callers trace, and logs what is traced or fails."""
    flags = ("--otlp-endpoint", collector.url, "--trace-ratio", "0", "--log-calls", "true", "--log-ratio", "0")
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = ServerProcess(toy_models, *PATIENT, *flags)
    with server:
        yield server


class Trace:
    """What a collector has of a trace, once its calls of a method are there; their spans come after their children."""

    def __init__(self, collector: Collector, trace_id: str, method: str = "Encode", calls: int = 1) -> None:
        def mine() -> list[WireSpan]:
            return [span for span in list(collector.spans) if span.trace_id.hex() == trace_id]

        name = f"{SERVICE}/{method}"
        until(lambda: sum(span.name == name for span in mine()) == calls)
        self.spans = mine()
        self.calls = [span for span in self.spans if span.name == name]

    def children(self, call: WireSpan) -> list[WireSpan]:
        below = [span for span in self.spans if span.parent_span_id == call.span_id]
        return sorted(below, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


def seconds(span: WireSpan) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def said(span: WireSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value") or "") for entry in span.attributes}


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """What the log says of calls."""
    return [found for line in list(server.log) if line[0] == "{" and (found := json.loads(line))["event"] == "call"]


def test_the_stages_of_a_call_are_its_whole_time_and_its_caller_is_its_parent(
    server: ServerProcess, collector: Collector
) -> None:
    with Client(server.address) as client:
        for method, work in (
            ("Encode", lambda: client.encode("tally", toy_images(3))),
            ("SampleStream", lambda: list(client.sample_stream("tally", 3, progress=True))),
        ):
            with TRACER.start_as_current_span("mine") as mine:
                context = mine.get_span_context()
                work()
            trace = Trace(collector, f"{context.trace_id:032x}", method)
            (call,) = trace.calls
            assert (call.name, call.parent_span_id.hex()) == (f"{SERVICE}/{method}", f"{context.span_id:016x}")
            stages = trace.children(call)
            assert re.fullmatch(STAGES[method], " ".join(stage.name for stage in stages))
            assert sum(map(seconds, stages)) == pytest.approx(seconds(call), rel=0.05)
            for before, after in pairwise(stages):
                # Floats of seconds, to nanoseconds.
                assert abs(before.end_time_unix_nano - after.start_time_unix_nano) < 1_000
            about = said(call)
            assert [about[f"ancestral.{name}"] for name in ("model", "version", "rows")] == ["tally", 1, 3]
            assert about["rpc.grpc.status_code"] == 0
    assert {"service.name": "ancestral-server", "deployment.environment": "test"}.items() <= collector.resources[
        -1
    ].items()


def test_a_batch_links_the_calls_that_it_is_of(server: ServerProcess, collector: Collector) -> None:
    async def ask() -> tuple[str, int]:
        """Of many calls at a time, the trace, and how many images shared the largest run."""
        async with AsyncClient(server.address) as client:
            with TRACER.start_as_current_span("crowd") as crowd:
                replies = await asyncio.gather(*(client.encode("tally", toy_images(1)) for _ in range(16)))
        return f"{crowd.get_span_context().trace_id:032x}", max(reply.info.batch_size for reply in replies)

    shared = 1
    while shared == 1:
        # Who shares a run with whom is a matter of chance.
        trace_id, shared = asyncio.run(ask())
    trace = Trace(collector, trace_id, calls=16)
    linked = {}
    for call in trace.calls:
        (batch,) = [stage for stage in trace.children(call) if stage.name == "batch"]
        links = {link.span_id for link in batch.links}
        assert call.span_id in links
        assert len(links) == said(batch)["ancestral.batch.calls"] == said(batch)["ancestral.batch.rows"]
        linked[call.span_id] = links
    assert max(map(len, linked.values())) == shared
    # All calls of a batch link the same.
    assert all(linked[other] == links for links in linked.values() for other in links)


def test_the_messages_of_a_stream_are_told_of_up_to_a_bound(server: ServerProcess, collector: Collector) -> None:
    with Client(server.address) as client, TRACER.start_as_current_span("bulk") as bulk:
        assert len(list(client.encode_stream("tally", toy_images(70), message_size=1))) == 70
    trace = Trace(collector, f"{bulk.get_span_context().trace_id:032x}", "EncodeStream")
    (call,) = trace.calls
    names = [stage.name for stage in trace.children(call)]
    assert names.count("queue") == names.count("batch") == names.count("run") == 64
    about = said(call)
    assert (about["ancestral.requests_left_out"], about["ancestral.messages_sent"]) == (6, 70)


@pytest.mark.parametrize(
    ("headers", "traced"),
    [
        ({"traceparent": f"{PARENT}1"}, True),
        ({"traceparent": f"{PARENT}1", "tracestate": "theirs=1,other=two"}, True),
        ({"traceparent": f"{PARENT}0"}, False),
        ({}, False),
        # No traces: the call is as if it brought none.
        ({"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, False),
        ({"traceparent": "no trace"}, False),
        ({"traceparent": "00-" * 2000}, False),
        ({"traceparent": f"{PARENT}1", "tracestate": "=,=;;" * 200}, True),
    ],
)
def test_the_caller_decides(server: ServerProcess, collector: Collector, headers: dict[str, str], traced: bool) -> None:
    mark = os.urandom(8).hex()
    metadata = (*headers.items(), ("x-request-id", mark))
    inference(server).Encode(pb.EncodeRequest(model="tally", images=tensor(toy_images(1))), metadata=metadata)
    # Spans arrive in the order in which calls end: what is not there when a later call is was not traced.
    with Client(server.address) as client, TRACER.start_as_current_span("after") as after:
        client.encode("tally", toy_images(1))
    Trace(collector, f"{after.get_span_context().trace_id:032x}")
    mine = [span for span in collector.spans if said(span).get("ancestral.request_id") == mark]
    assert len(mine) == traced
    if traced:
        assert (mine[0].trace_id.hex(), mine[0].parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])


def test_an_unsampled_span_of_the_callers_is_passed_on_as_such(server: ServerProcess, collector: Collector) -> None:
    with Client(server.address) as client:
        with UNSAMPLED.start_as_current_span("unsampled") as unsampled:
            client.encode("tally", toy_images(1))
        with TRACER.start_as_current_span("after") as after:
            client.encode("tally", toy_images(1))
    Trace(collector, f"{after.get_span_context().trace_id:032x}")
    theirs = f"{unsampled.get_span_context().trace_id:032x}"
    assert theirs not in {span.trace_id.hex() for span in collector.spans}


def test_a_call_that_fails_says_why_and_how_long_it_waited(server: ServerProcess, collector: Collector) -> None:
    with TRACER.start_as_current_span("wrong") as wrong, pytest.raises(grpc.RpcError):
        inference(server).Encode(pb.EncodeRequest(model="nobody"), metadata=tracing.headers())
    (call,) = Trace(collector, f"{wrong.get_span_context().trace_id:032x}").calls
    assert said(call)["error.type"] == "MODEL_NOT_FOUND"
    # It is the caller's fault, not the server's.
    assert call.status.code == call.status.STATUS_CODE_UNSET
    (line,) = [line for line in lines(server) if line.get("trace_id") == call.trace_id.hex()]
    assert (line["code"], line["reason"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")


def test_the_log_has_a_line_for_a_call_with_where_its_time_went(server: ServerProcess) -> None:
    images = toy_images(3)
    metadata = (("traceparent", f"{PARENT}1"), ("x-request-id", "log"))
    inference(server).Encode(pb.EncodeRequest(model="tally", images=tensor(images)), metadata=metadata)
    until(lambda: any(line["request_id"] == "log" for line in lines(server)))
    (line,) = [line for line in lines(server) if line["request_id"] == "log"]
    expected = {"method": f"/{SERVICE}/Encode", "code": "OK", "model": "tally", "version": 1, "role": "encode"}
    assert expected.items() <= line.items()
    assert (line["images"], line["trace_id"]) == (3, PARENT.split("-")[1])
    assert 1 <= line["batch_size"] <= 3
    assert 0 <= line["queue_seconds"] + line["compute_seconds"] <= line["seconds"]
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", line["peer"])


def test_calls_that_go_well_are_logged_by_chance_and_those_that_fail_always(server: ServerProcess) -> None:
    """Here the chance is none."""
    stub = inference(server)
    stub.Encode(pb.EncodeRequest(model="tally", images=tensor(toy_images(1))), metadata=(("x-request-id", "well"),))
    with pytest.raises(grpc.RpcError):
        stub.Encode(pb.EncodeRequest(model="tally"), metadata=(("x-request-id", "wrong"),))
    until(lambda: any(line["request_id"] == "wrong" for line in lines(server)))
    assert not [line for line in lines(server) if line["request_id"] == "well"]


def test_histograms_show_the_last_trace_of_a_bucket_to_who_can_read_it(
    server: ServerProcess, collector: Collector
) -> None:
    with Client(server.address) as client, TRACER.start_as_current_span("slow") as slow:
        client.encode("tally", toy_images(2))
    trace_id = f"{slow.get_span_context().trace_id:032x}"
    Trace(collector, trace_id)
    request = urllib.request.Request(server.metrics_url, headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        families = {family.name: family for family in READ_METRICS(reply.read().decode())}
    for name in (
        "grpc_server_handling_seconds",
        "ancestral_request_seconds",
        "ancestral_request_queue_seconds",
        "ancestral_request_compute_seconds",
    ):
        shown = [sample for sample in families[name].samples if sample.exemplar]
        mine = [sample for sample in shown if sample.exemplar.labels == {"trace_id": trace_id}]
        assert mine
        assert all(sample.exemplar.value <= float(sample.labels["le"]) for sample in mine)
    assert "trace_id" not in server.metrics()
    until(lambda: server.metric("ancestral_spans_total", outcome="sent") > 0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_a_collector_that_is_away_costs_no_call_and_one_line_of_the_log(toy_models: Path) -> None:
    port = free_port()
    flags = ("--otlp-endpoint", f"localhost:{port}", "--trace-ratio", "1", "--drain-seconds", "5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.9")
        server = ServerProcess(toy_models, *flags)
    with server, ThreadPoolExecutor(8) as callers, Client(server.address) as client:

        def told() -> list[dict[str, Any]]:
            # gRPC itself has a word to say of a collector that ends.
            return [json.loads(line) for line in list(server.log) if line.startswith("{")]

        def encode(_: int) -> float:
            return float(client.encode("tally", toy_images(1)).mean[0, 0])

        assert len(set(callers.map(encode, range(300)))) == 1
        # Of several attempts.
        until(lambda: server.metric("ancestral_spans_total", outcome="failed") > 600)
        assert [said["event"] for said in told() if "spans" in said["event"]] == ["spans do not arrive"]
        with Collector(port) as collector:
            until(lambda: encode(0) and len(collector.spans) > 0)
            assert server.stop() == 0
    first, second, *_ = [said for said in told() if "spans" in said["event"]]
    assert str(port) in first["reason"]
    assert second["event"] == "spans arrive again"
    assert not [said for said in told() if said["level"] == "error"]


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    program = "import sys; import ancestral_server.app, ancestral_client; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0


def test_what_waits_is_sent_at_the_end(toy_models: Path, collector: Collector) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_SERVICE_NAME", "the last")
        server = ServerProcess(toy_models, "--otlp-endpoint", collector.url, "--trace-ratio", "1")
    with server, Client(server.address) as client:
        client.encode("tally", toy_images(1))
        assert server.stop() == 0
    assert any(resource["service.name"] == "the last" for resource in collector.resources)


def ancestral(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "ancestral")
    inherited = {**os.environ, **environment}
    return subprocess.run([program, *arguments], cwd=cwd, env=inherited, capture_output=True, text=True, check=False)


def command(server: ServerProcess, folder: Path) -> Sequence[str]:
    np.save(folder / "images.npy", toy_images(2))
    return ("encode", "tally", "images.npy", "--out", "z.npy", "--address", server.address)


def test_the_command_starts_a_trace(server: ServerProcess, collector: Collector, tmp_path: Path) -> None:
    done = ancestral("--otlp", collector.url, *command(server, tmp_path), cwd=tmp_path, TRACEPARENT=f"{PARENT}1")
    assert done.returncode == 0, done.stderr
    (trace_id,) = re.findall(r"^ancestral: trace ([0-9a-f]{32})$", done.stderr, re.M)
    assert trace_id == PARENT.split("-")[1]
    until(lambda: any(span.name == "ancestral encode" for span in collector.spans))
    (mine,) = [span for span in collector.spans if span.name == "ancestral encode"]
    below = [span for span in collector.spans if span.parent_span_id == mine.span_id]
    assert {span.name for span in below} >= {f"{SERVICE}/EncodeStream"}


def test_a_trace_of_the_command_that_does_not_arrive_is_told_and_the_command_is_done(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = ancestral(*command(server, tmp_path), cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert done.returncode == 0, done.stderr
    assert [line[:27] for line in done.stderr.splitlines() if "trace" in line] == ["ancestral: the trace is lost"[:27]]
    assert (tmp_path / "z.npy").exists()
    # Whoever set a variable for other programs is not kept from this one.
    done = ancestral(*command(server, tmp_path), cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://there/v1")
    assert done.returncode == 0
    assert "ancestral: the command is not traced: OTEL_EXPORTER_OTLP_ENDPOINT: is 'http://there/v1'" in done.stderr
    wrong = ancestral("--otlp", "no such thing", *command(server, tmp_path), cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "--otlp: is 'no such thing', must be http://HOST:PORT" in wrong.stderr
