"""Programs that can be told to fail or to wait, what no real graph does on demand, and lanes that run them.

The stand-ins take the programs' place at the seam that design section 5 names; everything else is real.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.batching import buckets
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.endpoint import OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import OneShotJob, Priority, RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.one_shot import OneShotScheduler
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning, BatchPolicy
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.runners import PoolRunner, Runner, ThreadRunner
from ancestral_server.engine.stats import LaneStats
from ancestral_server.errors import OutOfMemory
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.onnx_raster import OnnxPainting, OnnxRasterProgram
from ancestral_server.runtime.program import Meaning, OneShotProgram, Painting, RasterProgram
from waiting import PATIENCE, eventually

IMAGE, MEAN = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_MEAN
INFINITE = float("inf")
Array = np.ndarray[Any, Any]


class Doubler:
    """A one-shot program: the mean is twice the image. Byte 13 makes its run fail; `gate` holds every run.

    `fits` is how many rows fit into memory; `error` is raised once by the next run.
    """

    def __init__(self) -> None:
        self.inputs = {IMAGE: bundle_pb2.TensorSpec(name="x", meaning=IMAGE, dtype=toybundle.U8, shape=[1])}
        self.outputs = {MEAN: bundle_pb2.TensorSpec(name="y", meaning=MEAN, dtype=toybundle.F32, shape=[1])}
        self.row_bytes = {MEAN: 4}
        self.role = bundle_pb2.Role(name="encode", graph="doubler.onnx")
        self.label_count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        # The images of each run, without padding where no image is 0.
        self.runs: list[list[int]] = []
        self.fits = 10**6
        self.error: BaseException | None = None
        self.run_seconds = 0.0

    def probe(self) -> None:
        """What a lane does to see whether the program works."""
        self.run({IMAGE: np.zeros((1, 1), np.uint8)}, [MEAN])

    def blank(self, meaning: Meaning, rows: int) -> Array:
        return np.zeros((rows, 1), np.uint8)

    def check_outputs(self, outputs: Mapping[Meaning, Array], rows: int) -> None:
        assert {len(array) for array in outputs.values()} == {rows}

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        assert self.gate.wait(PATIENCE)
        images = inputs[IMAGE]
        time.sleep(self.run_seconds)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if len(images) > self.fits:
            raise OutOfMemory("out of memory: the fake is full")
        self.sizes.append(len(images))
        self.runs.append([int(image) for image in images[:, 0] if image])
        if (images == 13).any():
            raise RuntimeError("thirteen")
        return {MEAN: images.astype(np.float32) * 2}


class Painter:
    """A raster program of 4×3×1 images: a pixel is on where its uniform is below a half. One state counts rows, others
    tell what the sample was drawn from two and three rows above; a row's log-likelihood is the sum of all.

    `fail` makes every run fail, `poison` those that hold a row of the first samples of that seed; `error` is raised
    once by the next run. `fits` is how many samples fit into memory; `gate` holds every run.
    """

    image_shape = (4, 3, 1)
    has_log_likelihood = True
    overlaps = False
    rows_back = (1, 2, 3)

    def __init__(self) -> None:
        self.inputs = {spec.meaning: spec for spec in toybundle.ROW_INPUTS}
        self.fail = False
        self.poison: int | None = None
        self.fits = 10**6
        self.error: BaseException | None = None
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.rows = 0
        self.row_seconds = 0.0

    def probe(self) -> None:
        """What a lane does to see whether the program works."""
        self.run_row({bundle_pb2.MEANING_UNIFORMS: np.zeros((1, 3, 1))}, self.fresh_states(1))

    def blank(self, meaning: Meaning, rows: int) -> Array:
        spec = self.inputs[meaning]
        dtype = {toybundle.U8: np.uint8, toybundle.BOOL: np.bool_, toybundle.F32: np.float32}[spec.dtype]
        return np.zeros((rows, *spec.shape), dtype)

    def painting(self, places: int) -> Painting:
        return OnnxPainting(cast(OnnxRasterProgram, self), places)

    def fresh_states(self, rows: int) -> list[Array]:
        return [np.zeros((rows, 1), np.float32) for _ in self.rows_back]

    def check_row(self, row: Array, likelihood: Array, rows: int) -> None:
        assert len(row) == len(likelihood) == rows

    def run_row(self, inputs: Mapping[Meaning, Array], states: Sequence[Array]) -> tuple[Array, Array, list[Array]]:
        assert self.gate.wait(PATIENCE)
        time.sleep(self.row_seconds)
        if self.fail or self._poisoned(inputs[bundle_pb2.MEANING_UNIFORMS]):
            raise RuntimeError("out of paint")
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if len(states[0]) > self.fits:
            raise OutOfMemory("out of memory: the fake is full")
        self.sizes.append(len(states[0]))
        self.rows += 1
        uniforms = inputs[bundle_pb2.MEANING_UNIFORMS]
        row = np.where(uniforms < 0.5, 255, 0).astype(np.uint8)
        mark = _marks(uniforms[:, 0])
        return row, np.sum(states, axis=0)[:, 0], [states[0] + 1, mark, mark.copy()]

    def _poisoned(self, rows: Array) -> bool:
        """Whether a row [W,C] of the poisonous samples is among these [B,W,C]."""
        if self.poison is None:
            return False
        guilty = _first_pixels(self.poison)
        return any(float(row[0, 0]) in guilty for row in rows)


class Easel(Painter):
    """A painter that goes on by itself, as a GPU does: what it paints is there when the row is waited for.

    `begun` and `ended` count its rows; `placed` has, for each time that samples were handed over, how many rows were
    being painted just then.
    """

    overlaps = True

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0
        self.placed: list[int] = []

    def painting(self, places: int) -> Painting:
        return _EaselPainting(self, places)


class _EaselPainting(OnnxPainting):
    def __init__(self, easel: Easel, places: int) -> None:
        super().__init__(cast(OnnxRasterProgram, easel), places)
        self._easel = easel
        self._begun: tuple[Array, Sequence[int]] | None = None

    def place(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        self._easel.placed.append(self._easel.begun - self._easel.ended)
        super().place(places, inputs)

    def move(self, sources: Array, targets: Array, left: int) -> None:
        assert self._begun is None, "samples move between two rows"
        super().move(sources, targets, left)

    def begin_row(self, rows: Array, sizes: Sequence[int]) -> None:
        assert self._begun is None, "one row at a time"
        self._easel.begun += 1
        self._begun = rows, sizes

    def end_row(self) -> tuple[Array, Array | None]:
        assert self._begun is not None, "a row was begun"
        begun, self._begun = self._begun, None
        super().begin_row(*begun)
        self._easel.ended += 1
        return super().end_row()


@cache
def _first_pixels(seed: int) -> frozenset[float]:
    """The first number of every row of the first samples of a seed."""
    return frozenset(float(number) for number in uniforms_of_range(seed, 0, 16, (4, 3, 1))[:, :, 0].ravel())


def _marks(uniforms: Array) -> Array:
    """Whole numbers, whose sums are exact, by which rows are told apart."""
    marks: Array = np.floor(uniforms * 1024).astype(np.float32)
    return marks


def expected_likelihood(seed: int, first: int, n: int) -> Array:
    """What a `Painter` says of its samples, [n]: rows are counted from 0, and each tells of those above it."""
    marks = _marks(uniforms_of_range(seed, first, n, Painter.image_shape)[:, :, 0, 0])
    height, (_, *backs) = Painter.image_shape[0], Painter.rows_back
    likelihood: Array = np.full(n, sum(range(height)), np.float32)
    for back in backs:
        likelihood += marks[:, : height - back].sum(1)
    return likelihood


def expected_images(seed: int, first: int, n: int) -> Array:
    return np.where(uniforms_of_range(seed, first, n, (4, 3, 1)) < 0.5, 255, 0).astype(np.uint8)


@contextmanager
def batch_lane(
    program: Doubler,
    limits: Limits | None = None,
    max_batch: int = 4,
    *,
    fixed: bool = False,
    seats: int = 1,
    runner: Runner | None = None,
    policy: BatchPolicy | None = None,
    costs: CostModel | None = None,
) -> Iterator[Lane[OneShotJob]]:
    """A lane of batches, on a thread of its own unless another runner is given."""
    sizes = buckets(max_batch)
    scheduler = OneShotScheduler(
        "toy",
        cast(OneShotProgram, program),
        sizes=sizes,
        limits=limits or Limits(images=10),
        policy=policy or Adaptive(Arrivals().coming, AdaptiveTuning(longest=0.005)),
        costs=costs or CostModel(),
        memory=BatchSizeLimit(sizes),
        seats=seats,
        fixed=fixed,
    )
    stats = LaneStats(Metrics("test").lanes.make("toy", 1, "encode"))
    lane = Lane("toy", scheduler, runner or ThreadRunner(), probe=program.probe, stats=stats)
    lane.start()
    yield lane
    program.gate.set()
    lane.close()


@contextmanager
def painting_lane(
    program: Painter, limits: Limits | None = None, slots: int = 4, workers: int = 1, fixed: bool = False
) -> Iterator[RasterEndpoint]:
    """A sampler on a pool of so many workers."""
    scheduler = RasterScheduler(
        "toy",
        cast(RasterProgram, program),
        slots=slots,
        limits=limits or Limits(),
        costs=CostModel(),
        memory=BatchSizeLimit(buckets(slots)),
        seats=workers,
        fixed=fixed,
    )
    stats = LaneStats(Metrics("test").lanes.make("toy", 1, "sample"))
    lane = Lane("toy", scheduler, PoolRunner(WorkerPool(workers)), probe=program.probe, stats=stats)
    endpoint = RasterEndpoint(stats, lane, scheduler)
    endpoint.start()
    yield endpoint
    program.gate.set()
    endpoint.close()


async def double(
    lane: Lane[OneShotJob] | OneShotEndpoint,
    *values: int,
    deadline: float = INFINITE,
    priority: Priority = Priority.INTERACTIVE,
) -> list[float]:
    """Twice the values, by a job that must be over `deadline` seconds from now."""
    job = OneShotJob(
        rows=len(values),
        future=asyncio.get_running_loop().create_future(),
        deadline=time.monotonic() + deadline,
        inputs={IMAGE: np.array(values, np.uint8)[:, None]},
        wanted=[MEAN],
        priority=priority,
    )
    await ask(lane, job)
    return [float(value) for value in job.output(MEAN)[:, 0]]


async def paint(
    lane: RasterEndpoint,
    n: int,
    seed: int = 1,
    first: int = 0,
    deadline: float = INFINITE,
    priority: Priority = Priority.INTERACTIVE,
) -> RasterJob:
    job = RasterJob(
        rows=n,
        future=asyncio.get_running_loop().create_future(),
        deadline=time.monotonic() + deadline,
        seed=seed,
        first_index=first,
        priority=priority,
    )
    return await ask(lane, job)


until = eventually


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, PATIENCE)

    return asyncio.run(bounded())
