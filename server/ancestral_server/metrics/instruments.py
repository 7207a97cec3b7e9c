"""What calls and lanes write, and the words that labels may have."""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Constant relative error from a sub-millisecond encode to a sampling of many seconds: 15 µs × 1.5^n up to about 14.6 s
# (the choice of text-embeddings-inference), then on to 4 minutes for large sampling calls.
SECONDS_BUCKETS = tuple(1e-5 * 1.5**n for n in range(1, 43))
BATCH_BUCKETS = tuple(float(2**n) for n in range(13))

# From what binarised digits take to what noise of 8 bits does, 0.03 to 12.7, by thirds of an octave.
BITS_BUCKETS = tuple(2 ** (n / 3) for n in range(-15, 12))

# Those of rpc/status and what gRPC itself ends a call with. Others would be counted, and shown from then on.
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

# Why a lane refuses a request, and why it gives one up.
REFUSALS = ("queue_full", "deadline")
DROPS = ("expired", "cancelled")
# What runs a role that paints images row by row.
FORMS = ("onnx", "kernel")
# How a load ends, and the replay of a bundle's recorded answers.
LOADS = ("loaded", "refused")
VERIFICATIONS = ("passed", "failed")
# Files that had changed, and what became of them.
RELOADED = ("certificates", "callers")
RELOADS = ("used", "refused")
# What becomes of the spans of traced calls.
SPANS = ("sent", "failed", "dropped")

RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
LANE_LABELS = ("model", "version", "role")


class Exemplar(NamedTuple):
    """A value, the trace that it comes from, and when that was, in seconds of the epoch."""

    value: float
    trace_id: str
    when: float


class LockFreeHistogram:
    """A histogram with one writer at a time: a search and two additions, where the library's own instrument takes a
    lock for each of its values. A scrape may see a value that is half counted.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        # The last of each bucket, by its number.
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def show(self, value: float, trace_id: str, when: float) -> None:
        """Show which trace a value that was observed is of; by one thread at a time, which need not be the writer."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(value, trace_id, when)


@dataclass(slots=True)
class QualityMetrics:
    """What the images of a role are like, of those that were looked at; written by one thread at a time.

    intensity: 0 to 1. Shifts and spreads are in standard deviations of the training images. None while it is unknown.
    samples: the role draws, and these are compared.
    """

    images: int = 0
    input_intensity: float | None = None
    input_shift: float | None = None
    latent_shift: float | None = None
    latent_spread: float | None = None
    samples: bool = False
    compared: int = 0
    repeated: int = 0
    bits_per_dim: LockFreeHistogram = field(default_factory=lambda: LockFreeHistogram(BITS_BUCKETS))


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


@dataclass(frozen=True, slots=True)
class CallerMetrics:
    """The instruments of one caller, which lock themselves."""

    calls: Any
    over_quota: Any
    images: Any
    compute_seconds: Any


@dataclass(slots=True)
class MethodMetrics:
    """The counts of one RPC, written by the event loop only."""

    started: int = 0
    received: int = 0
    sent: int = 0
    handled: collections.Counter[str] = field(default_factory=lambda: collections.Counter(dict.fromkeys(GRPC_CODES, 0)))
    seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
