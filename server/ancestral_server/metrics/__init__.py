"""Metrics. `registry` holds all of a server, by whoever has something to tell: `access`, `lanes`, `machine`, `models`,
and `series` of what every call writes, into `instruments`: as text, since there are many.
"""

from ancestral_server.metrics.access import CallerMetrics
from ancestral_server.metrics.gpus import Gpu, Gpus
from ancestral_server.metrics.histogram import SECONDS_BUCKETS, LockFreeHistogram
from ancestral_server.metrics.instruments import LaneMetrics, MethodMetrics
from ancestral_server.metrics.lanes import DROPS, REFUSALS
from ancestral_server.metrics.quality import QualityMetrics
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
