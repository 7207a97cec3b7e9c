"""All instruments of one server, and the port where they are scraped.

`grpc_server_*` carry the names and labels of the Go middleware, codes in CamelCase ("DeadlineExceeded"), so that
existing dashboards work. Counters are there at zero before the first call, each method with each code that this server
gives, so that rates and alerts work at once. A histogram is there from its first value on: of a server at rest all of
them would be four fifths of a scrape.
"""

from __future__ import annotations

from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ancestral_server.endpoint import Endpoint, Gate, Tls, anybody, listen, no_tls
from ancestral_server.metrics.access import AccessMetrics
from ancestral_server.metrics.histogram import LockFreeHistogram
from ancestral_server.metrics.instruments import MethodMetrics
from ancestral_server.metrics.lanes import LanesMetrics
from ancestral_server.metrics.machine import MachineMetrics
from ancestral_server.metrics.models import ModelMetrics
from ancestral_server.metrics.series import CallSeries

# What becomes of the spans of traced calls.
SPANS = ("sent", "failed", "dropped")

# When each series began would be a line beside each: nobody who watches this server reads it.
_library: Any = prometheus_client
_library.disable_created_metrics()


class Metrics:
    """One server's instruments, in a registry of their own so that two servers in a process do not mix.

    Labels are names of models, versions and roles that are in the models folder, of callers that a file names, and
    words of this package: nothing that somebody sends.
    """

    def __init__(self, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("ancestral_server", "Version of the server.", registry=registry).info({"version": version})

        self._series = CallSeries()
        self.access = AccessMetrics(registry)
        self.lanes = LanesMetrics(registry, self._series)
        self.machine = MachineMetrics(registry)
        self.models = ModelMetrics(registry)
        self._stopping = Gauge(
            "ancestral_server_stopping",
            "1 from the signal to stop on, while calls that were let in are finished.",
            registry=registry,
        )
        self._spans = Counter(
            "ancestral_spans",
            "Spans of traced calls, by outcome: sent to the collector, failed where it did not take them, dropped "
            "where too many waited for it.",
            ("outcome",),
            registry=registry,
        )

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
        methods = self._series.methods
        found = methods.get((kind, service, method))
        return found or methods.setdefault((kind, service, method), MethodMetrics())

    def scrape(self, open_metrics: bool) -> bytes:
        """All series as they are now, in one of the two formats of text."""
        others: bytes = (openmetrics if open_metrics else exposition).generate_latest(self._registry)
        return self._series.text(open_metrics).encode() + others

    def serve(self, host: str, port: int, tls: Tls = no_tls, gate: Gate = anybody) -> Endpoint:
        """Answer GET /metrics, as `Endpoint` says. OSError if the port is taken."""
        return Endpoint(self.scrape, listen(host, port), tls, gate)
