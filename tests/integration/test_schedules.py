"""Whatever happens around it, a sample is bitwise the one that it is alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ancestral_exporter.models.base import ImageShape
from ancestral_server.engine.endpoint import RasterEndpoint
from ancestral_server.engine.job import Completion, RasterJob
from ancestral_server.rpc.asking import ask
from pixelcnns import exported, raster_lane, sharp_pixelcnn
from shared import Shared
from waiting import PATIENCE

SHAPE = (6, 5, 3)
LEVELS = 4
Result = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def bundle(once: Shared) -> Path:
    # Of its layers one looks at the row above, the other farther up.
    model = sharp_pixelcnn(ImageShape(*SHAPE, LEVELS), label_count=3, row_dilations=(3, 1))
    return once("schedules", lambda folder: exported(model, folder)) / "toy" / "1"


@pytest.fixture
def alone(bundle: Path) -> Iterator[RasterEndpoint]:
    """A lane of a single slot: what it paints has no company."""
    with raster_lane(bundle, slots=1, workers=1) as lane:
        yield lane


def new_job(random: np.random.Generator, rows: int) -> RasterJob:
    completion = None
    if random.random() < 0.4:
        count = 1 if random.random() < 0.5 else rows
        given = (random.integers(0, LEVELS, (count, *SHAPE)) * 85).astype(np.uint8)
        completion = Completion(given, random.random((count, *SHAPE)) < random.random())
    return RasterJob(
        rows=rows,
        future=asyncio.get_running_loop().create_future(),
        seed=int(random.integers(0, 50)),
        first_index=int(random.integers(0, 20)),
        temperature=float(random.choice([0.0, 0.7, 1.0, 2.0])),
        label=int(random.integers(0, 3)),
        completion=completion,
    )


def one_of(job: RasterJob, i: int) -> RasterJob:
    """A job for sample i of another job, and nothing else."""
    kept = None
    if job.completion is not None:
        given, known = job.completion.of(i)
        kept = Completion(given[None], known[None])
    return RasterJob(
        rows=1,
        future=asyncio.get_running_loop().create_future(),
        seed=job.seed,
        first_index=job.first_index + i,
        temperature=job.temperature,
        label=job.label,
        completion=kept,
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_a_sample_is_the_same_in_any_company_joined_at_any_row_amid_a_cancel_storm(
    bundle: Path, alone: RasterEndpoint, workers: int
) -> None:
    random = np.random.default_rng(workers)

    async def work() -> None:
        kept: list[RasterJob] = []
        waiting: list[asyncio.Task[RasterJob]] = []
        doomed: list[asyncio.Task[RasterJob]] = []
        for _ in range(150):
            job = new_job(random, int(random.choice([1, 1, 2, 3, 9])))
            if random.random() < 0.35:
                doomed.append(asyncio.create_task(ask(lane, new_job(random, int(random.integers(1, 40))))))
            kept.append(job)
            waiting.append(asyncio.create_task(ask(lane, job)))
            # A row takes about half a millisecond here: arrivals fall anywhere between and inside rows.
            await asyncio.sleep(float(random.exponential(0.0015)))
            if doomed and random.random() < 0.5:
                doomed.pop(int(random.integers(len(doomed)))).cancel()
        for task in doomed:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)

        compared = 0
        for job in kept:
            for i in range(job.rows):
                single = await ask(alone, one_of(job, i))
                assert single.images[0].tobytes() == job.images[i].tobytes()
                assert single.log_likelihood[0].tobytes() == job.log_likelihood[i].tobytes()
                compared += 1
        assert compared >= 250
        # The storm left nothing behind.
        assert lane.scheduler.used == 0
        assert lane.scheduler.queue.total_rows == 0

    with raster_lane(bundle, slots=8, workers=workers) as lane:
        asyncio.run(work())


def test_known_pixels_come_back_as_they_were_given(bundle: Path, alone: RasterEndpoint) -> None:
    random = np.random.default_rng(7)
    # Bytes between the levels too: what was given is what comes back.
    given = random.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    known = random.random((5, *SHAPE)) < 0.5

    async def work() -> RasterJob:
        future = asyncio.get_running_loop().create_future()
        return await ask(alone, RasterJob(rows=5, future=future, completion=Completion(given, known)))

    images = asyncio.run(work()).images
    assert np.array_equal(images[known], given[known])
    assert set(np.unique(images[~known])) <= {0, 85, 170, 255}
