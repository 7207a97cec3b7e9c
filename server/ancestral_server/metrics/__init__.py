"""Metrics: `instruments` are what lanes and calls write, `series` is their text, `registry` holds all of a server."""

from ancestral_server.metrics.instruments import (
    DROPS,
    REFUSALS,
    SECONDS_BUCKETS,
    CallerMetrics,
    LaneMetrics,
    LockFreeHistogram,
    MethodMetrics,
)
from ancestral_server.metrics.registry import Metrics

__all__ = [
    "DROPS",
    "REFUSALS",
    "SECONDS_BUCKETS",
    "CallerMetrics",
    "LaneMetrics",
    "LockFreeHistogram",
    "MethodMetrics",
    "Metrics",
]
