"""Who calls, how much of it, and the files that say who may: instruments of callers and of what is read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

# Files that had changed, and what became of them.
RELOADED = ("certificates", "callers")
RELOADS = ("used", "refused")


@dataclass(frozen=True, slots=True)
class CallerMetrics:
    """The instruments of one caller, which lock themselves."""

    calls: Any
    over_quota: Any
    images: Any
    compute_seconds: Any


class AccessMetrics:
    """Callers are told of by the names that the file of callers has: nothing that somebody unknown sends is a label."""

    def __init__(self, registry: CollectorRegistry) -> None:
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

    def caller(self, name: str, in_flight: Callable[[], int]) -> CallerMetrics:
        """Of a caller that the file names. Each scrape asks how many of its calls go on."""
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
