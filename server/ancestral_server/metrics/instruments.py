"""What calls and lanes write, and by which labels it is shown."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ancestral_server.metrics.histogram import LockFreeHistogram
from ancestral_server.metrics.quality import QualityMetrics

BATCH_BUCKETS = tuple(float(2**n) for n in range(13))

# The codes of rpc/status and what gRPC itself ends a call with. Another would be shown from its first call on.
GRPC_CODES = (
    "OK",
    "Canceled",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "Unauthenticated",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Unimplemented",
    "Internal",
    "Unavailable",
)

RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
LANE_LABELS = ("model", "version", "role")


@dataclass(slots=True)
class LaneMetrics:
    """The instruments of one role. The histograms are written with the lock of its `LaneStats` held, the others lock
    themselves.
    """

    queued: Any
    # By reason.
    _refused: Mapping[str, Any]
    _dropped: Mapping[str, Any]
    restarts: Any
    out_of_memory: Any
    # Of a role that paints images row by row: its slots, and those in use.
    slots: Any = None
    slots_in_use: Any = None
    queue_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    compute_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    request_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    first_row_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    batch_size: LockFreeHistogram = field(default_factory=lambda: LockFreeHistogram(BATCH_BUCKETS))
    quality: QualityMetrics = field(default_factory=QualityMetrics)
    # Images answered, and seconds in which the role's graph ran.
    images: int = 0
    run_seconds: float = 0.0

    @property
    def rows_painted(self) -> float:
        """Image rows; a batch of a role that paints is one row of so many samples."""
        return self.batch_size.total

    def watch_slots(self, capacity: int, used: Callable[[], int]) -> None:
        """Have each scrape ask how many of a sampler's slots are in use."""
        self.slots.set(capacity)
        self.slots_in_use.set_function(used)

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def dropped(self, reason: str, requests: int) -> None:
        self._dropped[reason].inc(requests)

    def record_request(self, images: int, queue_seconds: float, compute_seconds: float) -> None:
        self.images += images
        self.queue_seconds.observe(queue_seconds)
        self.compute_seconds.observe(compute_seconds)
        self.request_seconds.observe(queue_seconds + compute_seconds)


@dataclass(slots=True)
class MethodMetrics:
    """The counts of one RPC, written by the event loop only."""

    started: int = 0
    received: int = 0
    sent: int = 0
    handled: collections.Counter[str] = field(default_factory=lambda: collections.Counter(dict.fromkeys(GRPC_CODES, 0)))
    seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
