"""All instruments, their names, labels and buckets. Nothing else imports prometheus_client.

`grpc_server_*` carry the names and labels of the Go middleware, codes in CamelCase ("DeadlineExceeded"), so that
existing dashboards work; every method and code is there at zero before the first call, so that rates and alerts work at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

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


@dataclass(frozen=True)
class LaneMetrics:
    """The instruments of one lane, labels bound."""

    queue_seconds: Any
    compute_seconds: Any
    batch_size: Any
    queued: Any

    def record_request(self, queue_seconds: float, compute_seconds: float) -> None:
        self.queue_seconds.observe(queue_seconds)
        self.compute_seconds.observe(compute_seconds)


@dataclass(frozen=True)
class MethodMetrics:
    """The instruments of one RPC, labels bound."""

    started: Any
    handled: dict[str, Any]
    received: Any
    sent: Any
    seconds: Any


class Metrics:
    """One server's instruments, in a registry of their own so that two servers in a process do not mix."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("ancestral_server", "Version of the server.", registry=registry).info({"version": version})

        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started", "Calls started.", rpc, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls completed, by status code.", (*rpc, "grpc_code"), registry=registry
        )
        self._received = Counter("grpc_server_msg_received", "Messages received.", rpc, registry=registry)
        self._sent = Counter("grpc_server_msg_sent", "Messages sent.", rpc, registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start of a call in the server to its end.",
            rpc,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

        lane = ("model", "version", "role")
        self._queue_seconds = Histogram(
            "ancestral_request_queue_seconds",
            "Seconds from admission until work on a request began.",
            lane,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._compute_seconds = Histogram(
            "ancestral_request_compute_seconds",
            "Seconds from the start of work on a request until its last image was ready.",
            lane,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "ancestral_batch_size",
            "Images in one run, without padding; of a raster role, samples in one row.",
            lane,
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._queued = Gauge("ancestral_queued_images", "Images admitted and not yet begun.", lane, registry=registry)
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
        labels = (model, str(version), role)
        return LaneMetrics(
            self._queue_seconds.labels(*labels),
            self._compute_seconds.labels(*labels),
            self._batch_size.labels(*labels),
            self._queued.labels(*labels),
        )

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        labels = (kind, service, method)
        return MethodMetrics(
            self._started.labels(*labels),
            {code: self._handled.labels(*labels, code) for code in GRPC_CODES},
            self._received.labels(*labels),
            self._sent.labels(*labels),
            self._seconds.labels(*labels),
        )

    def declare(self, methods: Iterable[tuple[str, str, str]]) -> None:
        """Make every (type, service, method) visible at zero."""
        for kind, service, method in methods:
            self.method(kind, service, method)

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
        for instrument in (self._queue_seconds, self._compute_seconds, self._batch_size, self._queued):
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
