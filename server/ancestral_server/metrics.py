"""All instruments, their names, labels and buckets. Nothing else imports prometheus_client.

`grpc_server_*` carry the names and labels of the Go middleware, codes in CamelCase ("DeadlineExceeded"), so that
existing dashboards work; every method and code is there at zero before the first call, so that rates and alerts work at
once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

# Constant relative error from a sub-millisecond encode to a sampling of many seconds: 15 µs × 1.5^n up to about 14.6 s
# (the choice of text-embeddings-inference), then on to 4 minutes for large sampling calls.
SECONDS_BUCKETS = tuple(1e-5 * 1.5**n for n in range(1, 43))
BATCH_BUCKETS = tuple(float(2**n) for n in range(13))

GRPC_CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)

# Why a lane refuses a request, and why it gives one up.
REFUSALS = ("queue_full", "deadline")
DROPS = ("expired", "cancelled")


class Tally:
    """A histogram with one writer at a time: a search and two additions, where the library's own instrument takes a
    lock for each of its values. A scrape may see a value that is half counted.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BUCKETS) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and how many were at most that, as Prometheus wants them."""
        bounds = (*map(str, self._bounds), "+Inf")
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


@dataclass(slots=True)
class LaneMetrics:
    """The instruments of one role. The tallies are written with the lock of its `LaneStats` held, the others lock
    themselves.
    """

    queued: Any
    # By reason.
    _refused: Mapping[str, Any]
    _dropped: Mapping[str, Any]
    restarts: Any
    out_of_memory: Any
    queue_seconds: Tally = field(default_factory=Tally)
    compute_seconds: Tally = field(default_factory=Tally)
    batch_size: Tally = field(default_factory=lambda: Tally(BATCH_BUCKETS))

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
    handled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GRPC_CODES, 0))
    seconds: Tally = field(default_factory=Tally)


RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
LANE_LABELS = ("model", "version", "role")


class _Tallies(Collector):
    """Shows the tallies to Prometheus."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, ...], MethodMetrics] = {}
        self.lanes: dict[tuple[str, ...], LaneMetrics] = {}

    def collect(self) -> Iterator[Metric]:
        methods = dict(self.methods)
        for name, text, attribute in (
            ("grpc_server_started", "Calls started.", "started"),
            ("grpc_server_msg_received", "Messages received.", "received"),
            ("grpc_server_msg_sent", "Messages sent.", "sent"),
        ):
            counter = CounterMetricFamily(name, text, labels=RPC_LABELS)
            for labels, method in methods.items():
                counter.add_metric(labels, getattr(method, attribute))
            yield counter
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed, by status code.", labels=(*RPC_LABELS, "grpc_code")
        )
        for labels, method in methods.items():
            for code, count in method.handled.items():
                handled.add_metric((*labels, code), count)
        yield handled
        yield _histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start of a call in the server to its end.",
            RPC_LABELS,
            {labels: method.seconds for labels, method in methods.items()},
        )
        lanes = dict(self.lanes)
        yield _histogram(
            "ancestral_request_queue_seconds",
            "Seconds from admission until work on a request began.",
            LANE_LABELS,
            {labels: lane.queue_seconds for labels, lane in lanes.items()},
        )
        yield _histogram(
            "ancestral_request_compute_seconds",
            "Seconds from the start of work on a request until its last image was ready.",
            LANE_LABELS,
            {labels: lane.compute_seconds for labels, lane in lanes.items()},
        )
        yield _histogram(
            "ancestral_batch_size",
            "Images in one run, without padding; of a raster role, samples in one row.",
            LANE_LABELS,
            {labels: lane.batch_size for labels, lane in lanes.items()},
        )


def _histogram(
    name: str, text: str, labels: tuple[str, ...], tallies: Mapping[tuple[str, ...], Tally]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, tally in tallies.items():
        family.add_metric(values, buckets=tally.buckets(), sum_value=tally.total)
    return family


class Metrics:
    """One server's instruments, in a registry of their own so that two servers in a process do not mix."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("ancestral_server", "Version of the server.", registry=registry).info({"version": version})

        self._tallies = _Tallies()
        registry.register(self._tallies)
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
        self._models: set[tuple[str, int]] = set()
        self._loads = Counter(
            "ancestral_model_loads", "Bundles loaded, by outcome.", ("model", "outcome"), registry=registry
        )

    def lane(self, model: str, version: int, role: str) -> LaneMetrics:
        """The instruments of a lane that is being made; one that serves under the same labels is still shown."""
        labels = (model, str(version), role)
        return LaneMetrics(
            self._queued.labels(*labels),
            {reason: self._refused.labels(*labels, reason) for reason in REFUSALS},
            {reason: self._dropped.labels(*labels, reason) for reason in DROPS},
            self._restarts.labels(*labels),
            self._out_of_memory.labels(*labels),
        )

    def show(self, model: str, version: int, role: str, metrics: LaneMetrics) -> None:
        """Show the tallies of a lane that serves, in place of those of the one before."""
        self._tallies.lanes[model, str(version), role] = metrics

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """Visible at zero from now on."""
        return self._tallies.methods.setdefault((kind, service, method), MethodMetrics())

    def models(self, serving: Mapping[tuple[str, int], bool]) -> None:
        """Which versions (name, number) answer calls and which were refused; others have no series."""
        for name, version in self._models - serving.keys():
            self._serving.remove(name, str(version))
        for (name, version), answers in serving.items():
            self._serving.labels(name, str(version)).set(answers)
        self._models = set(serving)

    def loaded(self, name: str, *, ok: bool) -> None:
        # Both outcomes are there from the first on: an increase from nothing would be none.
        for outcome, happened in (("loaded", ok), ("refused", not ok)):
            self._loads.labels(name, outcome).inc(happened)

    def forget_lanes(self, model: str, version: int) -> None:
        """Drop the series of a version whose lanes are gone."""
        # A copy: the loader's thread may add to it.
        for labels in [key for key in list(self._tallies.lanes) if key[:2] == (model, str(version))]:
            del self._tallies.lanes[labels]
        for instrument in (self._queued, self._refused, self._dropped, self._restarts, self._out_of_memory):
            instrument.remove_by_labels({"model": model, "version": str(version)})

    def serve(self, host: str, port: int) -> Endpoint:
        """Answer GET /metrics. OSError if the port is taken."""
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        return Endpoint(server, thread)


@dataclass(frozen=True)
class Endpoint:
    """The running metrics endpoint."""

    _server: Any
    _thread: Thread

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
