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

# Why a lane refuses a request, and why it gives one up.
REFUSALS = ("queue_full", "deadline")
DROPS = ("expired", "cancelled")


@dataclass(frozen=True)
class LaneMetrics:
    """The instruments of one lane, labels bound."""

    queue_seconds: Any
    compute_seconds: Any
    batch_size: Any
    queued: Any
    # By reason.
    _refused: Mapping[str, Any]
    _dropped: Mapping[str, Any]
    restarts: Any
    out_of_memory: Any

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def dropped(self, reason: str, requests: int) -> None:
        self._dropped[reason].inc(requests)

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
        self._refused = Counter(
            "ancestral_requests_refused",
            "Requests refused before any work: queue_full, or deadline where it could not have been met.",
            (*lane, "reason"),
            registry=registry,
        )
        self._dropped = Counter(
            "ancestral_requests_dropped",
            "Requests given up after admission: expired, or cancelled by the caller.",
            (*lane, "reason"),
            registry=registry,
        )
        self._restarts = Counter(
            "ancestral_lane_restarts", "Times a lane failed outside of a run and began anew.", lane, registry=registry
        )
        self._out_of_memory = Counter(
            "ancestral_out_of_memory",
            "Runs that did not fit into memory and were done again in parts.",
            lane,
            registry=registry,
        )
        self._serving = Gauge(
            "ancestral_model_serving",
            "1 if the model version answers calls, 0 if it was refused at load.",
            ("model", "version"),
            registry=registry,
        )

    def lane(self, model: str, version: int, role: str) -> LaneMetrics:
        labels = (model, str(version), role)
        return LaneMetrics(
            self._queue_seconds.labels(*labels),
            self._compute_seconds.labels(*labels),
            self._batch_size.labels(*labels),
            self._queued.labels(*labels),
            {reason: self._refused.labels(*labels, reason) for reason in REFUSALS},
            {reason: self._dropped.labels(*labels, reason) for reason in DROPS},
            self._restarts.labels(*labels),
            self._out_of_memory.labels(*labels),
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

    def model(self, name: str, version: int, *, serving: bool) -> None:
        self._serving.labels(name, str(version)).set(serving)

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
