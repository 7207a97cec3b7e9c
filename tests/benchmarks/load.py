"""The sampler under load: Poisson arrivals with continuous and with static batching, and a crowd beside a giant."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ancestral_server.engine.endpoint import RasterEndpoint
from ancestral_server.engine.job import ProgressEvents, RasterJob
from ancestral_server.rpc.asking import answered, submit
from rig import Rig, sample


@dataclass(frozen=True)
class Load:
    """What single-image requests saw, seconds."""

    requests: int
    images_per_second: float
    p50: float
    p99: float
    first_row_p50: float
    first_row_p99: float


async def capacity(lane: RasterEndpoint, count: int) -> float:
    """Images/s of a request that keeps every slot busy."""
    began = time.perf_counter()
    await sample(lane, count)
    return count / (time.perf_counter() - began)


async def poisson(lane: RasterEndpoint, rate: float, seconds: float, seed: int) -> Load:
    """Single-image requests at `rate` per second, arrivals the same for the same seed."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, max(1, round(rate * seconds)))
    due = np.cumsum(gaps)
    began = time.perf_counter()
    tasks = []
    for i, at in enumerate(due):
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        # From when it was due: a late generator must not hide a slow server.
        tasks.append(asyncio.create_task(_single(lane, i, began + at)))
    seen = np.array(await asyncio.gather(*tasks))
    spent = time.perf_counter() - began
    latency, first_row = seen[:, 0], seen[:, 1]
    return Load(
        requests=len(tasks),
        images_per_second=len(tasks) / spent,
        p50=float(np.quantile(latency, 0.5)),
        p99=float(np.quantile(latency, 0.99)),
        first_row_p50=float(np.quantile(first_row, 0.5)),
        first_row_p99=float(np.quantile(first_row, 0.99)),
    )


async def _single(lane: RasterEndpoint, seed: int, due: float) -> tuple[float, float]:
    """Seconds until the image and until its first row."""
    future = asyncio.get_running_loop().create_future()
    job = RasterJob(rows=1, future=future, seed=seed, feed=ProgressEvents(rows=True))
    first_row = 0.0
    async for _index, row in submit(lane, job).events():
        if row == 0:
            first_row = time.perf_counter() - due
    await answered(job)
    return time.perf_counter() - due, first_row


def compare_batching(rig: Rig, seconds: float, rounds: int) -> dict[str, Any]:
    """Both kinds of batching in turn, at 70 % of the capacity of the continuous one."""

    async def work() -> dict[str, Any]:
        loads: dict[str, list[Load]] = {"continuous": [], "static": []}
        top = await capacity(rig.lane, 4 * rig.lane.scheduler.capacity)
        for round_ in range(rounds):
            loads["continuous"].append(await poisson(rig.lane, 0.7 * top, seconds, round_))
            loads["static"].append(await poisson(static, 0.7 * top, seconds, round_))
        result: dict[str, Any] = {"capacity_images_per_second": top, "offered_images_per_second": 0.7 * top}
        for name, runs in loads.items():
            result[name] = {key: float(np.median([asdict(run)[key] for run in runs])) for key in asdict(runs[0])}
        # What was measured side by side is compared: the machine's mood changes from round to round.
        for key, ratio in (("p99", "p99_ratio"), ("images_per_second", "throughput_ratio")):
            pairs = zip(loads["continuous"], loads["static"], strict=True)
            result[f"{ratio}s"] = [asdict(one)[key] / asdict(other)[key] for one, other in pairs]
            result[ratio] = float(np.median(result[f"{ratio}s"]))
        return result

    static = rig.static_lane()
    try:
        return asyncio.run(work())
    finally:
        static.close()


def crowd_beside_a_giant(rig: Rig, seconds: float, rounds: int, per_second: float, giant: int) -> dict[str, Any]:
    """One request for `giant` images, alone and with single-image requests beside it.

    Both of a single's figures are relative to a full batch: its queue time in rows of one, its whole time to what an
    image takes in one.
    """
    lane = rig.lane

    async def full_batch_image() -> float:
        """Seconds that an image takes where single-image requests fill every slot."""
        jobs = await asyncio.gather(*(sample(lane, 1, seed=i) for i in range(lane.scheduler.capacity)))
        return float(np.median([job.compute_seconds for job in jobs]))

    async def giant_rate(with_singles: bool) -> tuple[float, list[RasterJob]]:
        feed = ProgressEvents(rows=False)
        future = asyncio.get_running_loop().create_future()
        job = RasterJob(rows=giant, future=future, seed=1, feed=feed)

        async def follow() -> None:
            async for _ in submit(lane, job).events():
                pass
            await answered(job)

        following = asyncio.create_task(follow())
        # The first images all finish together: begin to count when the slots are out of step or full at least.
        while not job.done:
            assert not following.done(), "the large request ended early"
            await asyncio.sleep(0.01)
        done, began = job.done, time.perf_counter()
        singles: list[asyncio.Task[RasterJob]] = []
        while time.perf_counter() - began < seconds and not following.done():
            if with_singles:
                singles.append(asyncio.create_task(sample(lane, 1, seed=100 + len(singles))))
            await asyncio.sleep(1 / per_second)
        rate = (job.done - done) / (time.perf_counter() - began)
        finished = list(await asyncio.gather(*singles))
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        while lane.scheduler.used:
            await asyncio.sleep(0.01)
        return rate, finished

    async def work() -> dict[str, Any]:
        alone, beside, images, singles = [], [], [], []
        for _ in range(rounds):
            alone.append((await giant_rate(False))[0])
            rate, asked = await giant_rate(True)
            beside.append(rate)
            singles += asked
            images.append(await full_batch_image())
        image = float(np.median(images))
        queue = [job.queue_seconds / image * rig.shape[0] for job in singles]
        whole = [(job.finished - job.submitted) / image for job in singles]
        return {
            "giant_images_per_second_alone": alone,
            "giant_images_per_second_beside": beside,
            "giant_keeps": float(np.median(np.array(beside) / np.array(alone))),
            "full_batch_image_seconds": image,
            "singles": len(singles),
            "single_queue_rows_p50": float(np.quantile(queue, 0.5)),
            "single_queue_rows_p99": float(np.quantile(queue, 0.99)),
            "single_queue_rows_max": float(np.max(queue)),
            "single_over_full_bucket_image_p50": float(np.quantile(whole, 0.5)),
            "single_over_full_bucket_image_max": float(np.max(whole)),
        }

    return asyncio.run(work())
