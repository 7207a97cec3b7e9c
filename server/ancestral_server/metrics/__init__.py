"""Metrics: `instruments` are what lanes and calls write, `series` is their text, `registry` holds all of a server,
`gpus` asks NVIDIA's library at each scrape.
"""

from ancestral_server.metrics.gpus import Gpu, Gpus
from ancestral_server.metrics.instruments import (
    DROPS,
    REFUSALS,
    SECONDS_BUCKETS,
    CallerMetrics,
    LaneMetrics,
    LockFreeHistogram,
    MethodMetrics,
    QualityMetrics,
)
from ancestral_server.metrics.registry import Metrics

__all__ = [
    "DROPS",
    "REFUSALS",
    "SECONDS_BUCKETS",
    "CallerMetrics",
    "Gpu",
    "Gpus",
    "LaneMetrics",
    "LockFreeHistogram",
    "MethodMetrics",
    "Metrics",
    "QualityMetrics",
]
