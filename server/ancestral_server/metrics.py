"""All instruments, their names, labels and buckets. Nothing else imports prometheus_client.

`grpc_server_*` carry the names and labels of the Go middleware, codes in CamelCase ("DeadlineExceeded"), so that
existing dashboards work. Counters are there at zero before the first call, each method with each code that this server
gives, so that rates and alerts work at once. A histogram is there from its first value on: of a server at rest all of
them would be four fifths of a scrape.
"""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ancestral_server.endpoint import Endpoint, listen

# When each series began would be a line beside each: nobody who watches this server reads it.
_library: Any = prometheus_client
_library.disable_created_metrics()

# Constant relative error from a sub-millisecond encode to a sampling of many seconds: 15 µs × 1.5^n up to about 14.6 s
# (the choice of text-embeddings-inference), then on to 4 minutes for large sampling calls.
SECONDS_BUCKETS = tuple(1e-5 * 1.5**n for n in range(1, 43))
BATCH_BUCKETS = tuple(float(2**n) for n in range(13))

# Those of rpc/status and what gRPC itself ends a call with. Others would be counted, and shown from then on.
GRPC_CODES = (
    "OK",
    "Canceled",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "ResourceExhausted",
    "FailedPrecondition",
    "Unimplemented",
    "Internal",
    "Unavailable",
)

# Why a lane refuses a request, and why it gives one up.
REFUSALS = ("queue_full", "deadline")
DROPS = ("expired", "cancelled")


class LockFreeHistogram:
    """A histogram with one writer at a time: a search and two additions, where the library's own instrument takes a
    lock for each of its values. A scrape may see a value that is half counted.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


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
    queue_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    compute_seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)
    batch_size: LockFreeHistogram = field(default_factory=lambda: LockFreeHistogram(BATCH_BUCKETS))

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def dropped(self, reason: str, requests: int) -> None:
        self._dropped[reason].inc(requests)

    def record_request(self, queue_seconds: float, compute_seconds: float) -> None:
        self.queue_seconds.observe(queue_seconds)
        self.compute_seconds.observe(compute_seconds)


@dataclass(slots=True)
class MethodMetrics:
    """The counts of one RPC, written by the event loop only."""

    started: int = 0
    received: int = 0
    sent: int = 0
    handled: collections.Counter[str] = field(default_factory=lambda: collections.Counter(dict.fromkeys(GRPC_CODES, 0)))
    seconds: LockFreeHistogram = field(default_factory=LockFreeHistogram)


RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
LANE_LABELS = ("model", "version", "role")


class _CallSeries:
    """The series of methods and lanes as text. Written here and not by the library, which takes tens of times as long
    for each line, and holds the interpreter meanwhile: nearly all lines of a scrape are those of histograms.
    """

    def __init__(self) -> None:
        self.methods: dict[tuple[str, ...], MethodMetrics] = {}
        self.lanes: dict[tuple[str, ...], LaneMetrics] = {}

    def text(self, open_metrics: bool) -> str:
        # Copies: the loader's thread may add to it.
        methods = {_labels(RPC_LABELS, values): method for values, method in dict(self.methods).items()}
        lanes = {_labels(LANE_LABELS, values): lane for values, lane in dict(self.lanes).items()}
        handled = {
            f'grpc_code="{code}",{labels}': count
            for labels, method in methods.items()
            for code, count in dict(method.handled).items()
        }
        return "".join(
            (
                _counter(
                    "grpc_server_started",
                    "Calls started.",
                    {labels: method.started for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter(
                    "grpc_server_msg_received",
                    "Messages received.",
                    {labels: method.received for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter(
                    "grpc_server_msg_sent",
                    "Messages sent.",
                    {labels: method.sent for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter("grpc_server_handled", "Calls completed, by status code.", handled, open_metrics),
                _histogram(
                    "grpc_server_handling_seconds",
                    "Seconds from the start of a call in the server to its end.",
                    {labels: method.seconds for labels, method in methods.items()},
                ),
                _histogram(
                    "ancestral_request_queue_seconds",
                    "Seconds from admission until work on a request began.",
                    {labels: lane.queue_seconds for labels, lane in lanes.items()},
                ),
                _histogram(
                    "ancestral_request_compute_seconds",
                    "Seconds from the start of work on a request until its last image was ready.",
                    {labels: lane.compute_seconds for labels, lane in lanes.items()},
                ),
                _histogram(
                    "ancestral_batch_size",
                    "Images in one run, without padding; of a raster role, samples in one row.",
                    {labels: lane.batch_size for labels, lane in lanes.items()},
                ),
            )
        )


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Sorted by name, as the library has them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _counter(name: str, text: str, counts: Mapping[str, int], open_metrics: bool) -> str:
    """Counts by their labels. The two formats name the family differently, and its samples alike."""
    family = name if open_metrics else f"{name}_total"
    lines = [f"{name}_total{{{labels}}} {float(count)}\n" for labels, count in counts.items()]
    return f"# HELP {family} {text}\n# TYPE {family} counter\n" + "".join(lines)


def _histogram(name: str, text: str, histograms: Mapping[str, LockFreeHistogram]) -> str:
    """Tallies by their labels, of those that have a value."""
    lines = [f"# HELP {name} {text}\n# TYPE {name} histogram\n"]
    for labels, histogram in histograms.items():
        counts, total = list(histogram.counts), histogram.total
        if not any(counts):
            continue
        upto = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), counts, strict=True):
            upto += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {float(upto)}\n')
        lines.append(f"{name}_count{{{labels}}} {float(upto)}\n{name}_sum{{{labels}}} {total}\n")
    return "".join(lines)


class Metrics:
    """One server's instruments, in a registry of their own so that two servers in a process do not mix."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("ancestral_server", "Version of the server.", registry=registry).info({"version": version})

        self._series = _CallSeries()
        self._queued = Gauge(
            "ancestral_queued_images", "Images admitted and not yet begun.", LANE_LABELS, registry=registry
        )
        self._refused = Counter(
            "ancestral_requests_refused",
            "Requests refused before any work: queue_full, or deadline where it could not have been met.",
            (*LANE_LABELS, "reason"),
            registry=registry,
        )
        self._dropped = Counter(
            "ancestral_requests_dropped",
            "Requests given up after admission: expired, or cancelled by the caller.",
            (*LANE_LABELS, "reason"),
            registry=registry,
        )
        self._restarts = Counter(
            "ancestral_lane_restarts",
            "Times a lane failed outside of a run and began anew.",
            LANE_LABELS,
            registry=registry,
        )
        self._out_of_memory = Counter(
            "ancestral_out_of_memory",
            "Runs that did not fit into memory and were done again in parts.",
            LANE_LABELS,
            registry=registry,
        )
        self._serving = Gauge(
            "ancestral_model_serving",
            "1 if the model version answers calls, 0 if it was refused at load.",
            ("model", "version"),
            registry=registry,
        )
        # Roles of each version whose lanes have series.
        self._roles: dict[tuple[str, int], set[str]] = {}
        self._loads = Counter(
            "ancestral_model_loads", "Bundles loaded, by outcome.", ("model", "outcome"), registry=registry
        )

    def lane(self, model: str, version: int, role: str) -> LaneMetrics:
        """The instruments of a lane that is being made; one that serves under the same labels is still shown."""
        labels = (model, str(version), role)
        self._roles.setdefault((model, version), set()).add(role)
        return LaneMetrics(
            self._queued.labels(*labels),
            {reason: self._refused.labels(*labels, reason) for reason in REFUSALS},
            {reason: self._dropped.labels(*labels, reason) for reason in DROPS},
            self._restarts.labels(*labels),
            self._out_of_memory.labels(*labels),
        )

    def show(self, model: str, version: int, role: str, metrics: LaneMetrics) -> None:
        """Show the histograms of a lane that serves, in place of those of the one before."""
        self._series.lanes[model, str(version), role] = metrics

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """Visible at zero from now on."""
        return self._series.methods.setdefault((kind, service, method), MethodMetrics())

    def model(self, name: str, version: int, serving: bool | None) -> None:
        """Whether a version answers calls or was refused; None: neither, it has no series."""
        if serving is None:
            self._serving.remove(name, str(version))
        else:
            self._serving.labels(name, str(version)).set(serving)

    def loaded(self, name: str, *, ok: bool) -> None:
        # Both outcomes are there from the first on: an increase from nothing would be none.
        for outcome, happened in (("loaded", ok), ("refused", not ok)):
            self._loads.labels(name, outcome).inc(happened)

    def forget_lanes(self, model: str, version: int) -> None:
        """Drop the series of a version whose lanes are gone."""
        version_ = str(version)
        # By their names: to search all series for those of a version would take long where there are thousands.
        for role in self._roles.pop((model, version), ()):
            labels = model, version_, role
            self._series.lanes.pop(labels, None)
            for instrument in (self._queued, self._restarts, self._out_of_memory):
                instrument.remove(*labels)
            for counter, reasons in ((self._refused, REFUSALS), (self._dropped, DROPS)):
                for reason in reasons:
                    counter.remove(*labels, reason)

    def scrape(self, open_metrics: bool) -> bytes:
        """All series as they are now, in one of the two formats of text."""
        others: bytes = (openmetrics if open_metrics else exposition).generate_latest(self.registry)
        return self._series.text(open_metrics).encode() + others

    def serve(self, host: str, port: int) -> Endpoint:
        """Answer GET /metrics. OSError if the port is taken."""
        return Endpoint(self.scrape, listen(host, port))
