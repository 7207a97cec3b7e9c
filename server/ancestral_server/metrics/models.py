"""Versions of models: which serve, what they are, and how their loads went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, Summary

# How a load ends, and the replay of a bundle's recorded answers.
LOADS = ("loaded", "refused")
VERIFICATIONS = ("passed", "failed")


class ModelMetrics:
    """What is said of a model goes when it does."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        self._draining = Gauge(
            "ancestral_model_draining",
            "Replaced or removed loads of a model version that still have calls to finish.",
            ("model", "version"),
            registry=registry,
        )
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

    def state(self, name: str, version: int, serving: bool | None) -> None:
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

    def forget(self, name: str) -> None:
        """Drop what is said of a model of which no version is left."""
        for instrument, outcomes in (
            (self._loads, LOADS),
            (self._load_seconds, LOADS),
            (self._verification_seconds, VERIFICATIONS),
        ):
            for outcome in outcomes:
                instrument.remove(name, outcome)


def _observe(summary: Any, seconds: float, happened: bool) -> None:
    """Add to a summary what has happened; it is there at zero otherwise."""
    if happened:
        summary.observe(seconds)
