"""Lanes by model, version and role: what they write, shown while their version is there."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from ancestral_server.metrics.instruments import LANE_LABELS, LaneMetrics
from ancestral_server.metrics.series import CallSeries

# Why a lane refuses a request, and why it gives one up.
REFUSALS = ("queue_full", "deadline")
DROPS = ("expired", "cancelled")
# What runs a role that paints images row by row.
FORMS = ("onnx", "kernel")


class LanesMetrics:
    """Labels are names of models, versions and roles that are in the models folder. series: has the histograms."""

    def __init__(self, registry: CollectorRegistry, series: CallSeries) -> None:
        self._series = series
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
        self._forms = Gauge(
            "ancestral_role_form",
            "1 for what runs a raster role of a model version: onnx, its graph, or kernel, its machine code on a GPU.",
            (*LANE_LABELS, "form"),
            registry=registry,
        )
        # Roles of each version whose lanes have series.
        self._roles: dict[tuple[str, int], set[str]] = {}

    def make(self, model: str, version: int, role: str, *, raster: bool = False) -> LaneMetrics:
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

    def forget(self, model: str, version: int) -> None:
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

    def form(self, name: str, version: int, role: str, form: str) -> None:
        """What runs a role of a version that is about to serve: one of FORMS."""
        for each in FORMS:
            if each == form:
                self._forms.labels(name, str(version), role, each).set(1)
            else:
                self._forms.remove(name, str(version), role, each)
