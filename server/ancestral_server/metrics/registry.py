"""One server's instruments, their names and labels. Nothing else imports prometheus_client.

`grpc_server_*` carry the names and labels of the Go middleware, codes in CamelCase ("DeadlineExceeded"), so that
existing dashboards work. Counters are there at zero before the first call, each method with each code that this server
gives, so that rates and alerts work at once. A histogram is there from its first value on: of a server at rest all of
them would be four fifths of a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, Summary, exposition
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ancestral_server.endpoint import Endpoint, Gate, Tls, anybody, listen, no_tls
from ancestral_server.metrics.gpus import Gpu
from ancestral_server.metrics.instruments import (
    DROPS,
    FORMS,
    LANE_LABELS,
    LOADS,
    REFUSALS,
    RELOADED,
    RELOADS,
    SPANS,
    VERIFICATIONS,
    CallerMetrics,
    LaneMetrics,
    LockFreeHistogram,
    MethodMetrics,
)
from ancestral_server.metrics.series import CallSeries

# When each series began would be a line beside each: nobody who watches this server reads it.
_library: Any = prometheus_client
_library.disable_created_metrics()


class Metrics:
    """One server's instruments, in a registry of their own so that two servers in a process do not mix.

    Labels are names of models, versions and roles that are in the models folder, and words of this file: nothing that
    a caller sends. What is said of a model goes when it does.
    """

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("ancestral_server", "Version of the server.", registry=registry).info({"version": version})

        self._series = CallSeries()
        self._device = Info("ancestral_device", "What runs the graphs, and on how many threads.", registry=registry)
        self._device_images = Gauge(
            "ancestral_device_images",
            "Of each of several GPUs, images that it was given and has not answered.",
            ("device",),
            registry=registry,
        )
        self._cpus = Gauge("ancestral_cpus", "CPUs that this process may use.", registry=registry)
        self._memory_limit = Gauge(
            "ancestral_memory_limit_bytes",
            "Memory that this process may have: the machine's, or its control group's.",
            registry=registry,
        )
        self._stopping = Gauge(
            "ancestral_server_stopping",
            "1 from the signal to stop on, while calls that were let in are finished.",
            registry=registry,
        )
        self._queued = Gauge(
            "ancestral_queued_images", "Images admitted and not yet begun.", LANE_LABELS, registry=registry
        )
        self._slots = Gauge(
            "ancestral_slots", "Samples that a raster role can paint at a time.", LANE_LABELS, registry=registry
        )
        self._slots_in_use = Gauge(
            "ancestral_slots_in_use", "Samples that a raster role is painting.", LANE_LABELS, registry=registry
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
        # The series that each lane has, in whatever order.
        self._of_lanes = (self._queued, self._slots, self._slots_in_use, self._restarts, self._out_of_memory)
        self._serving = Gauge(
            "ancestral_model_serving",
            "1 if the model version answers calls, 0 if it was refused at load.",
            ("model", "version"),
            registry=registry,
        )
        self._about = Info(
            "ancestral_model",
            "What a model version that serves is: its family, images (height x width x channels), roles and device.",
            ("model", "version"),
            registry=registry,
        )
        self._forms = Gauge(
            "ancestral_role_form",
            "1 for what runs a raster role of a model version: onnx, its graph, or kernel, its machine code on a GPU.",
            (*LANE_LABELS, "form"),
            registry=registry,
        )
        self._draining = Gauge(
            "ancestral_model_draining",
            "Replaced or removed loads of a model version that still have calls to finish.",
            ("model", "version"),
            registry=registry,
        )
        self._spans = Counter(
            "ancestral_spans",
            "Spans of traced calls, by outcome: sent to the collector, failed where it did not take them, dropped "
            "where too many waited for it.",
            ("outcome",),
            registry=registry,
        )
        # Roles of each version whose lanes have series.
        self._roles: dict[tuple[str, int], set[str]] = {}
        self._loads = Counter(
            "ancestral_model_loads", "Bundles loaded, by outcome.", ("model", "outcome"), registry=registry
        )
        self._load_seconds = Summary(
            "ancestral_model_load_seconds",
            "Seconds that loads took, by outcome: reading, verifying and warming up.",
            ("model", "outcome"),
            registry=registry,
        )
        self._verification_seconds = Summary(
            "ancestral_model_verification_seconds",
            "Seconds that the replay of a bundle's recorded answers took, by outcome.",
            ("model", "outcome"),
            registry=registry,
        )

        callers = ("caller",)
        self._callers = (
            Counter("ancestral_caller_calls", "Calls of a caller that were let in.", callers, registry=registry),
            Counter(
                "ancestral_caller_over_quota",
                "Calls of a caller beyond its quota, refused.",
                callers,
                registry=registry,
            ),
            Counter("ancestral_caller_images", "Images that a caller asked for.", callers, registry=registry),
            Counter(
                "ancestral_caller_compute_seconds",
                "Seconds of runs that a caller's images took, its share of those that others had a part in.",
                callers,
                registry=registry,
            ),
        )
        self._caller_in_flight = Gauge(
            "ancestral_caller_in_flight", "Calls of a caller that go on.", callers, registry=registry
        )
        self._denied = Counter(
            "ancestral_calls_denied",
            "Calls that were not let in, by the reason that the caller heard.",
            ("reason",),
            registry=registry,
        )
        self._reloads = Counter(
            "ancestral_access_reloads",
            "Times that certificates or callers had changed: used, or refused, so that those before go on.",
            ("what", "outcome"),
            registry=registry,
        )
        for what in RELOADED:
            # There from the first on: an increase from nothing would be none.
            for outcome in RELOADS:
                self._reloads.labels(what, outcome)
        self._certificate_expires = Gauge(
            "ancestral_certificate_expiry_timestamp_seconds",
            "When the certificate of the server expires, Unix time; 0: there is no TLS.",
            registry=registry,
        )

    # ---- who calls

    def caller(self, name: str, in_flight: Callable[[], int]) -> CallerMetrics:
        """Of a caller that the file of callers names: nothing that somebody unknown sends becomes a label. Each scrape
        asks how many of its calls go on.
        """
        self._caller_in_flight.labels(name).set_function(in_flight)
        return CallerMetrics(*(instrument.labels(name) for instrument in self._callers))

    def forget_caller(self, name: str) -> None:
        """Drop the series of a caller that the file names no more."""
        for instrument in (*self._callers, self._caller_in_flight):
            instrument.remove(name)

    def denied(self, reason: str) -> None:
        """reason: one of the few that errors have."""
        self._denied.labels(reason).inc()

    def reloaded(self, what: str, *, fit: bool) -> None:
        self._reloads.labels(what, RELOADS[0] if fit else RELOADS[1]).inc()

    def certificate_expires(self, at: float) -> None:
        """at: Unix seconds."""
        self._certificate_expires.set(at)

    # ---- the server

    def machine(self, *, device: str, threads: int, cpus: int, memory_bytes: float) -> None:
        """What the server runs on. memory_bytes: infinite where it is unknown."""
        self._device.info({"device": device, "threads": str(threads)})
        self._cpus.set(cpus)
        self._memory_limit.set(memory_bytes)

    def gpus(self, read: Callable[[], Sequence[Gpu]]) -> None:
        """Have each scrape ask how the GPUs are that the server may use."""
        self.registry.register(_GpuSeries(read))

    def device(self, name: str) -> Callable[[float], None]:
        """Of one of several devices: what is told how many images more, or fewer, it has to do."""
        inc: Callable[[float], None] = self._device_images.labels(name).inc
        return inc

    def stopping(self) -> None:
        self._stopping.set(1)

    @property
    def loop_lag(self) -> LockFreeHistogram:
        """Seconds; written by the event loop only."""
        return self._series.loop_lag

    def traces(self) -> None:
        """Calls are traced: the outcomes of spans are there from now on."""
        for outcome in SPANS:
            self._spans.labels(outcome)

    def spans(self, outcome: str, number: int) -> None:
        self._spans.labels(outcome).inc(number)

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """Visible at zero from now on."""
        return self._series.methods.setdefault((kind, service, method), MethodMetrics())

    # ---- lanes

    def lane(self, model: str, version: int, role: str, *, raster: bool = False) -> LaneMetrics:
        """The instruments of a lane that is being made; one that serves under the same labels is still shown.

        raster: of a role that paints images row by row, which has slots.
        """
        labels = (model, str(version), role)
        self._roles.setdefault((model, version), set()).add(role)
        return LaneMetrics(
            self._queued.labels(*labels),
            {reason: self._refused.labels(*labels, reason) for reason in REFUSALS},
            {reason: self._dropped.labels(*labels, reason) for reason in DROPS},
            self._restarts.labels(*labels),
            self._out_of_memory.labels(*labels),
            self._slots.labels(*labels) if raster else None,
            self._slots_in_use.labels(*labels) if raster else None,
        )

    def show(self, model: str, version: int, role: str, metrics: LaneMetrics) -> None:
        """Show the histograms of a lane that serves, in place of those of the one before."""
        self._series.lanes[model, str(version), role] = metrics

    def shown(self, model: str, version: int, role: str) -> LaneMetrics | None:
        """The instruments of a lane that are shown."""
        return self._series.lanes.get((model, str(version), role))

    def forget_lanes(self, model: str, version: int) -> None:
        """Drop the series of a version whose lanes are gone."""
        version_ = str(version)
        # By their names: to search all series for those of a version would take long where there are thousands.
        for role in self._roles.pop((model, version), ()):
            labels = model, version_, role
            self._series.lanes.pop(labels, None)
            for instrument in self._of_lanes:
                instrument.remove(*labels)
            for counter, reasons in ((self._refused, REFUSALS), (self._dropped, DROPS)):
                for reason in reasons:
                    counter.remove(*labels, reason)
            for form in FORMS:
                self._forms.remove(*labels, form)

    # ---- models

    def model(self, name: str, version: int, serving: bool | None) -> None:
        """Whether a version answers calls or was refused; None: neither, it has no series."""
        if serving is None:
            self._serving.remove(name, str(version))
        else:
            self._serving.labels(name, str(version)).set(serving)
        if not serving:
            self._about.remove(name, str(version))

    def about(self, name: str, version: int, texts: Mapping[str, str]) -> None:
        """What a version that is about to serve is, by label."""
        self._about.labels(name, str(version)).info(dict(texts))

    def form(self, name: str, version: int, role: str, form: str) -> None:
        """What runs a role of a version that is about to serve: one of FORMS."""
        for each in FORMS:
            if each == form:
                self._forms.labels(name, str(version), role, each).set(1)
            else:
                self._forms.remove(name, str(version), role, each)

    def draining(self, name: str, version: int, loads: int) -> None:
        """How many loads of a version have left and still have calls."""
        if loads:
            self._draining.labels(name, str(version)).set(loads)
        else:
            self._draining.remove(name, str(version))

    def loaded(self, name: str, seconds: float, *, ok: bool) -> None:
        # Both outcomes are there from the first on: an increase from nothing would be none.
        for outcome, happened in zip(LOADS, (ok, not ok), strict=True):
            self._loads.labels(name, outcome).inc(happened)
            _observe(self._load_seconds.labels(name, outcome), seconds, happened)

    def verified(self, name: str, seconds: float, *, ok: bool) -> None:
        """A bundle's recorded answers were compared with what its graphs gave."""
        for outcome, happened in zip(VERIFICATIONS, (ok, not ok), strict=True):
            _observe(self._verification_seconds.labels(name, outcome), seconds, happened)

    def forget_model(self, name: str) -> None:
        """Drop what is said of a model of which no version is left."""
        for instrument, outcomes in (
            (self._loads, LOADS),
            (self._load_seconds, LOADS),
            (self._verification_seconds, VERIFICATIONS),
        ):
            for outcome in outcomes:
                instrument.remove(name, outcome)

    # ---- the port

    def scrape(self, open_metrics: bool) -> bytes:
        """All series as they are now, in one of the two formats of text."""
        others: bytes = (openmetrics if open_metrics else exposition).generate_latest(self.registry)
        return self._series.text(open_metrics).encode() + others

    def serve(self, host: str, port: int, tls: Tls = no_tls, gate: Gate = anybody) -> Endpoint:
        """Answer GET /metrics, as `Endpoint` says. OSError if the port is taken."""
        return Endpoint(self.scrape, listen(host, port), tls, gate)


def _observe(summary: Any, seconds: float, happened: bool) -> None:
    """Add to a summary what has happened; it is there at zero otherwise."""
    if happened:
        summary.observe(seconds)


class _GpuSeries:
    """What is shown of GPUs; of what a device does not tell there is no series."""

    _FIGURES: Mapping[str, str] = {
        "memory_used_bytes": "Memory of the GPU that is taken, by whomever.",
        "memory_total_bytes": "Memory of the GPU.",
        "utilization_ratio": "The share of the last fraction of a second in which something ran on the GPU, 0 to 1.",
        "temperature_celsius": "Temperature of the GPU.",
        "power_watts": "Power that the GPU draws.",
    }

    def __init__(self, read: Callable[[], Sequence[Gpu]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        gpus = self._read()
        about = InfoMetricFamily(
            "ancestral_gpu", "A GPU that the server may use: its number, name, UUID and driver.", labels=("gpu",)
        )
        up = GaugeMetricFamily(
            "ancestral_gpu_up", "1 if the GPU answers, 0 if it was there and does not any more.", labels=("gpu",)
        )
        for gpu in gpus:
            about.add_metric((gpu.gpu,), {"name": gpu.name, "uuid": gpu.uuid, "driver": gpu.driver})
            up.add_metric((gpu.gpu,), float(gpu.there))
        yield about
        yield up
        for name, text in self._FIGURES.items():
            family = GaugeMetricFamily(f"ancestral_gpu_{name}", text, labels=("gpu",))
            for gpu in gpus:
                if (figure := getattr(gpu, name)) is not None:
                    family.add_metric((gpu.gpu,), figure)
            yield family
