"""What the benchmarks measure: an untrained model, its bundle, and the server's engine on it in this process.

Speed does not depend on the weights, so nothing needs to be trained.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ancestral_exporter import recipes
from ancestral_exporter.bundle.write import write_bundle
from ancestral_exporter.models.autoregressive import Autoregressive
from ancestral_exporter.models.base import ImageModel, ImageShape
from ancestral_server.catalog import Loader, ModelVersion
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.batching import buckets
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.endpoint import RasterEndpoint
from ancestral_server.engine.job import RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.runners import PoolRunner
from ancestral_server.engine.stats import LaneStats
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.program import RasterProgram
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from static import StaticScheduler

CORES = len(os.sched_getaffinity(0))


@dataclass
class Rig:
    """A model that samples pixel by pixel: in PyTorch, as a bundle in `models`, and as the server would load it."""

    model: Autoregressive
    models: Path
    version: ModelVersion

    @property
    def lane(self) -> RasterEndpoint:
        lane = self.version.endpoints["sample"]
        assert isinstance(lane, RasterEndpoint)
        return lane

    @property
    def shape(self) -> tuple[int, int, int]:
        image = self.model.image
        return image.height, image.width, image.channels

    def static_lane(self) -> RasterEndpoint:
        """The same engine, admitting only into an empty batch."""
        program = self.version.programs["sample"]
        assert isinstance(program, RasterProgram)
        slots = self.lane.scheduler.capacity // CORES
        scheduler = RasterScheduler(
            "static",
            program,
            slots=slots,
            limits=Limits(10**6, 10**6, math.inf),
            costs=CostModel(),
            memory=BatchSizeLimit(buckets(slots)),
            seats=CORES,
        )
        stats = LaneStats(Metrics("bench").lanes.make("static", 1, "sample"))
        runner = PoolRunner(WorkerPool(CORES))
        lane: Lane[RasterJob] = Lane("static", StaticScheduler(scheduler), runner, probe=lambda: None, stats=stats)
        endpoint = RasterEndpoint(stats, lane, scheduler)
        endpoint.start()
        return endpoint


def untrained(recipe: str, folder: Path, settings: Sequence[str] = ()) -> tuple[ImageModel, Path]:
    """The model of a recipe with `settings`, as of `--set`, and fresh weights; its bundle under `folder`."""
    torch.manual_seed(0)
    image = ImageShape(28, 28, 1, 2) if recipe.startswith("mnist") else ImageShape(8, 8, 1, 17)
    model = recipes.find(recipe, settings).build(image)
    golden = np.zeros((2, image.height, image.width, image.channels), np.uint8)
    return model, write_bundle(model, name=recipe, models_dir=folder, golden_images=golden)


@contextmanager
def rig(recipe: str, folder: Path, settings: Sequence[str] = ()) -> Iterator[Rig]:
    """Write an untrained bundle of the recipe under `folder` and load it as the server does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    model, _ = untrained(recipe, folder, settings)
    assert isinstance(model, Autoregressive), f"{recipe} is not sampled pixel by pixel"
    # Nobody is refused: what is compared is how long all take.
    most = 10**9
    server_settings = Settings(
        models=folder, device="cpu", max_queue_ms=3_600_000, max_queued_calls=most, max_queued_images=most
    )
    version = Loader(server_settings, Runtime("cpu", CORES), Metrics("bench"), Arrivals()).load(recipe, 1)
    assert version.serving, version.problem
    try:
        yield Rig(model, folder, version)
    finally:
        version.close()
        torch.set_num_threads(threads)


async def sample(lane: RasterEndpoint, count: int, seed: int = 0) -> RasterJob:
    """Ask a lane for samples, in a running event loop."""
    return await ask(lane, RasterJob(rows=count, future=asyncio.get_running_loop().create_future(), seed=seed))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
