from __future__ import annotations

import math

import pytest

from ancestral_demo.latency import latencies, quantile

BUCKETS = [(0.1, 0.0), (0.2, 10.0), (0.4, 20.0), (math.inf, 20.0)]


@pytest.mark.parametrize(("q", "seconds"), [(0.25, 0.15), (0.5, 0.2), (0.75, 0.3), (1.0, 0.4)])
def test_quantiles_are_linear_within_a_bucket_as_in_prometheus(q: float, seconds: float) -> None:
    assert quantile(q, BUCKETS) == pytest.approx(seconds)


def test_beyond_the_last_bound_the_last_bound_is_given() -> None:
    assert quantile(0.9, [(0.1, 1.0), (math.inf, 10.0)]) == 0.1


def test_reads_the_metrics_text_and_leaves_out_what_was_never_called() -> None:
    text = """# TYPE grpc_server_handling_seconds histogram
grpc_server_handling_seconds_bucket{grpc_method="Encode",le="0.1"} 0
grpc_server_handling_seconds_bucket{grpc_method="Encode",le="0.2"} 4
grpc_server_handling_seconds_bucket{grpc_method="Encode",le="+Inf"} 4
grpc_server_handling_seconds_sum{grpc_method="Encode"} 0.6
grpc_server_handling_seconds_count{grpc_method="Encode"} 4
grpc_server_handling_seconds_bucket{grpc_method="Score",le="+Inf"} 0
"""
    (entry,) = latencies(text)
    assert (entry.method, entry.calls) == ("Encode", 4)
    assert entry.p50 == pytest.approx(0.15)
