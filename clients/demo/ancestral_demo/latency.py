"""Latency as an operator reads it: quantiles from the buckets of the metrics endpoint."""

from __future__ import annotations

import math
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

FAMILY = "grpc_server_handling_seconds"


@dataclass(frozen=True)
class Latency:
    """Calls of one RPC so far, and quantiles of their seconds in the server."""

    method: str
    calls: int
    p50: float
    p99: float


def read_latencies(url: str) -> list[Latency]:
    """One entry per RPC that was called, by name. The server is on this machine: no proxy has a part in it."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as reply:
        return latencies(reply.read().decode())


def latencies(text: str) -> list[Latency]:
    """The same from the endpoint's text."""
    buckets: dict[str, list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families(text):
        if family.name == FAMILY:
            for sample in family.samples:
                if sample.name == f"{FAMILY}_bucket":
                    bounds = buckets.setdefault(sample.labels["grpc_method"], [])
                    bounds.append((float(sample.labels["le"]), sample.value))
    return [
        Latency(method, int(bounds[-1][1]), quantile(0.5, bounds), quantile(0.99, bounds))
        for method, bounds in sorted((method, sorted(bounds)) for method, bounds in buckets.items())
        if bounds[-1][1]
    ]


def quantile(q: float, buckets: list[tuple[float, float]]) -> float:
    """Prometheus's histogram_quantile: linear within the bounds of buckets (upper bound, cumulative count)."""
    rank = q * buckets[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= rank and count > below:
            return lower if math.isinf(upper) else lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = (upper if not math.isinf(upper) else lower), count
    return lower
