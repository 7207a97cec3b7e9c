"""What a scrape holds: series from the first moment on that alerts need, and no more of a server at rest."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from ancestral_server.metrics import SECONDS_BUCKETS, Metrics
from ancestral_server.rpc.status import CODES, camel_case

READERS: dict[bool, Any] = {False: read_text, True: read_open_metrics}
ORDER = ("grpc_type", "grpc_service", "grpc_method", "grpc_code", "model", "version", "role", "reason", "outcome", "le")
RPC = ("unary", "ancestral.v1.InferenceService", "Encode")


def samples(metrics: Metrics, open_metrics: bool) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by name and labels' values, as the library's own reader of the format finds them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in READERS[open_metrics](metrics.scrape(open_metrics).decode()):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in ORDER if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.mark.parametrize("open_metrics", [False, True])
def test_a_server_at_rest_shows_its_counters_and_no_histogram(open_metrics: bool) -> None:
    metrics = Metrics("1")
    metrics.method(*RPC)
    metrics.lanes.show("m", 1, "encode", metrics.lanes.make("m", 1, "encode"))
    at_rest = samples(metrics, open_metrics)
    for name in ("started", "msg_received", "msg_sent"):
        assert at_rest[f"grpc_server_{name}_total"] == {RPC: 0}
    # Every code that this server gives is there, so that the first failure is an increase.
    codes = {labels[3] for labels in at_rest["grpc_server_handled_total"]}
    assert codes == {"OK", "Canceled", *map(camel_case, CODES.values())}
    for name in ("requests_refused", "requests_dropped", "lane_restarts", "out_of_memory"):
        assert set(at_rest[f"ancestral_{name}_total"].values()) == {0}
    assert not any(name.endswith(("_bucket", "_created")) for name in at_rest)


@pytest.mark.parametrize("open_metrics", [False, True])
def test_a_histogram_is_there_with_its_first_value(open_metrics: bool) -> None:
    metrics = Metrics("1")
    metrics.method(*RPC).seconds.observe(0.001)
    metrics.method("unary", "ancestral.v1.InferenceService", "Decode")
    lane = metrics.lanes.make("m", 1, "encode")
    metrics.lanes.show("m", 1, "encode", lane)
    lane.record_request(1, 0.5, 1e9)
    lane.batch_size.observe(3)
    found = samples(metrics, open_metrics)
    assert found["grpc_server_handling_seconds_count"] == {RPC: 1}
    assert found["grpc_server_handling_seconds_sum"] == {RPC: 0.001}
    buckets = [value for labels, value in found["grpc_server_handling_seconds_bucket"].items()]
    assert buckets == [float(bound >= 0.001) for bound in SECONDS_BUCKETS] + [1]
    # Of what is longer than the last bound only the last bucket knows.
    assert sum(found["ancestral_request_compute_seconds_bucket"].values()) == 1
    assert found["ancestral_batch_size_bucket"]["m", "1", "encode", "2.0"] == 0
    assert found["ancestral_batch_size_bucket"]["m", "1", "encode", "4.0"] == 1


def test_a_bucket_shows_the_trace_of_its_last_value_to_who_can_read_it() -> None:
    metrics = Metrics("1")
    seconds = metrics.method(*RPC).seconds
    for value, trace_id in ((0.001, "a" * 32), (0.0011, "b" * 32), (1e9, "c" * 32)):
        seconds.observe(value)
        seconds.show(value, trace_id, 1.5)
    # Of a load that was replaced: this one has no such value.
    seconds.show(5.0, "d" * 32, 1.5)
    found = {
        sample.exemplar.labels["trace_id"]: (
            sample.exemplar.value,
            float(sample.exemplar.timestamp),
            sample.labels["le"],
        )
        for family in READERS[True](metrics.scrape(True).decode())
        for sample in family.samples
        if sample.exemplar
    }
    assert found.keys() == {"b" * 32, "c" * 32}
    assert found["c" * 32] == (1e9, 1.5, "+Inf")
    value, _, bound = found["b" * 32]
    assert value == 0.0011 <= float(bound)
    assert b"trace_id" not in metrics.scrape(False)


@pytest.mark.parametrize("open_metrics", [False, True])
def test_names_of_any_letters_are_written_so_that_they_can_be_read(open_metrics: bool) -> None:
    metrics, role = Metrics("1"), 'a"b\\c\nd\\n'
    lane = metrics.lanes.make("m", 1, role)
    metrics.lanes.show("m", 1, role, lane)
    lane.record_request(1, 0.5, 0.5)
    assert samples(metrics, open_metrics)["ancestral_request_queue_seconds_count"] == {("m", "1", role): 1}


def test_a_code_that_was_not_expected_is_shown_once_it_was_given() -> None:
    metrics = Metrics("1")
    metrics.method(*RPC).handled["DataLoss"] += 1
    assert samples(metrics, False)["grpc_server_handled_total"][(*RPC, "DataLoss")] == 1


def test_the_first_lines_of_a_family_name_it_in_each_format() -> None:
    metrics = Metrics("1")
    metrics.method(*RPC)
    assert re.search(rb"^# TYPE grpc_server_started_total counter$", metrics.scrape(False), re.M)
    assert re.search(rb"^# TYPE grpc_server_started counter$", metrics.scrape(True), re.M)
    assert metrics.scrape(True).endswith(b"# EOF\n")
