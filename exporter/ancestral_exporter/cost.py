"""What a sample costs, beside what it is worth: multiply-adds of the net, and seconds of its graphs on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds
from ancestral_exporter.bundle.runtime import open_session, run_role
from ancestral_exporter.models.base import ImageModel, RasterGraph
from ancestral_exporter.sampling import round_labels, sample_feeds

BATCHES = (1, 64)
_RUNS = 5
# Of repeating one measurement: a large model is run once or twice.
_SECONDS = 0.3


@dataclass(frozen=True)
class Timing:
    """Seconds per image, `images` at a time: sampled exactly, and scored in one parallel pass."""

    images: int
    sample_s: float
    pass_s: float

    @property
    def ratio(self) -> float:
        return self.sample_s / self.pass_s


@dataclass(frozen=True)
class SamplingCost:
    """multiply_adds: of one sampled image, by part of the net. timings: one for each of BATCHES."""

    multiply_adds: Mapping[str, int]
    timings: tuple[Timing, ...]
    cores: int


def measure_cost(model: ImageModel, folder: Path) -> SamplingCost | None:
    """Time the exported graphs in `folder`; None for a model that does not sample pixel by pixel.

    The parallel pass is the score graph, which gives the likelihood of whole images at once.
    """
    graphs = model.graphs()
    raster = next((graph for graph in graphs if isinstance(graph, RasterGraph)), None)
    roles = {role.name: role for graph in graphs for role in graph_roles(graph)}
    if raster is None or "score" not in roles:
        return None
    score = roles["score"]
    image = model.image
    sampler, scorer = open_session(folder / raster.file), open_session(folder / score.graph)
    timings = []
    for count in BATCHES:
        drawn = sample_feeds(model, raster.role, count, seed=0, temperature=1)
        blank = np.zeros((count, image.height, image.width, image.channels), np.uint8)
        scored = make_feeds(score, Subjects(blank, round_labels(model, count), 0))
        sample_s = _seconds(partial(run_role, sampler, raster.role, drawn, image.height))
        pass_s = _seconds(partial(run_role, scorer, score, scored, image.height))
        timings.append(Timing(count, sample_s / count, pass_s / count))
    return SamplingCost(raster.multiply_adds, tuple(timings), os.cpu_count() or 1)


def _seconds(run: Callable[[], object]) -> float:
    """The median of a few runs after the first, which alone counts when it takes too long to be repeated."""
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    runs = min(_RUNS, int(_SECONDS / first))
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found or [first])
