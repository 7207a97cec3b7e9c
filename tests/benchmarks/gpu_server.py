"""The server's own rates on a GPU: its engine on the bundles of a folder, in this process, without gRPC.

Needs what the server needs but gRPC: structlog, prometheus-client and pydantic beside onnxruntime.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.version import ModelVersion
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import OneShotJob, Priority, RasterJob
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.kernels.driver import Driver, NoDevice
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings

Array = np.ndarray[Any, Any]
IMAGE, MEAN = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_MEAN
# Samples of one call; an eighth of the slots is for calls that have none yet.
COUNTS, SLOTS = (1, 64, 1024), 1171
RUNS = 5
# Of Encode: single calls in flight and for how many seconds, images of one bulk call.
IN_FLIGHT, SECONDS, BULK = 64, 3.0, 50_000
RELOADS = 50


@dataclass
class ModelRates:
    """Of one model; what it cannot do is not there."""

    model: str
    form: str = ""
    # By samples of one call, milliseconds; and those over the seconds of one parallel pass over as many images.
    sample_ms: dict[int, float] = field(default_factory=dict)
    passes: dict[int, float] = field(default_factory=dict)
    encode_bulk: float = 0.0
    encode_raw: float = 0.0
    encode_single: float = 0.0
    # p99 of a single Encode, ms, alone and beside samplers of this model or another that want all they can have.
    encode_p99: tuple[float, float] | None = None
    # Free bytes of the device after the first load and after the last.
    reloads: tuple[int, int] | None = None


@contextmanager
def loaded(loader: Loader, name: str, version: int) -> Iterator[ModelVersion]:
    model = loader.load(name, version)
    assert model.serving, model.problem
    try:
        yield model
    finally:
        model.close()


def measure(models: Path, device: str, library: str, *, quick: bool = False) -> list[ModelRates]:
    """Of the newest version of every model in the folder. quick: a rehearsal, whose figures say nothing."""
    settings = Settings(models=models, device=device, slots=4 if quick else SLOTS, max_batch=8 if quick else 1024)
    patient = settings.model_copy(update={"max_queue_ms": 3.6e6, "max_queued_images": 10**7, "max_queued_calls": 10**6})
    runtime = Runtime(device, settings.threads, library=library)
    loader = Loader(patient, runtime, Metrics("bench"), Arrivals())
    newest: dict[str, int] = {}
    for manifest in models.glob("[!.]*/*/bundle.json"):
        name = manifest.parent.parent.name
        newest[name] = max(newest.get(name, 0), int(manifest.parent.name))
    rates = []
    for name, version in sorted(newest.items()):
        with loaded(loader, name, version) as model:
            rates.append(asyncio.run(_rates(model, quick)))
        rates[-1].reloads = _reloads(loader, name, version, runtime, 2 if quick else RELOADS)
    return rates


async def _rates(model: ModelVersion, quick: bool) -> ModelRates:
    rates = ModelRates(f"{model.name}/{model.version}")
    sample, encode = model.endpoints.get("sample"), model.endpoints.get("encode")
    if isinstance(sample, RasterEndpoint):
        rates.form = model.forms["sample"].name
        for count in COUNTS[:2] if quick else COUNTS:
            rates.sample_ms[count] = 1000 * await _median(partial(_sample, sample, count), quick)
            score = model.programs.get("score")
            if isinstance(score, OneShotProgram) and set(score.inputs) == {IMAGE}:
                images = np.zeros((count, *score.image_shape), np.uint8)
                once = await _median(partial(asyncio.to_thread, score.run, {IMAGE: images}, list(score.outputs)), quick)
                rates.passes[count] = rates.sample_ms[count] / 1000 / once
    if isinstance(encode, OneShotEndpoint):
        program = model.programs["encode"]
        assert isinstance(program, OneShotProgram)
        if set(program.inputs) == {IMAGE} and MEAN in program.outputs:
            await _encode(rates, program, encode, sample if isinstance(sample, RasterEndpoint) else None, quick)
    return rates


async def _encode(
    rates: ModelRates, program: OneShotProgram, encode: OneShotEndpoint, sample: RasterEndpoint | None, quick: bool
) -> None:
    shape = program.image_shape
    bulk = np.random.default_rng(1).integers(0, 256, (200 if quick else BULK, *shape), dtype=np.uint8)
    took = await _median(lambda: _call(encode, bulk, Priority.BATCH), quick)
    rates.encode_bulk = len(bulk) / took
    batch = bulk[: encode.rows_at_a_time]
    took = await _median(lambda: asyncio.to_thread(program.run, {IMAGE: batch}, [MEAN]), quick)
    rates.encode_raw = len(batch) / took
    seen = await _single(encode, bulk, IN_FLIGHT, 0.1 if quick else SECONDS)
    rates.encode_single = len(seen) / (0.1 if quick else SECONDS)
    if sample is not None:
        alone = await _single(encode, bulk, 1, 0.1 if quick else SECONDS)
        samplers = [asyncio.create_task(_sample(sample, 100 if quick else 10_000, seed)) for seed in range(4)]
        beside = await _single(encode, bulk, 1, 0.1 if quick else SECONDS)
        for task in samplers:
            task.cancel()
        await asyncio.gather(*samplers, return_exceptions=True)
        rates.encode_p99 = _p99(alone), _p99(beside)


async def _single(encode: OneShotEndpoint, images: Array, callers: int, seconds: float) -> list[float]:
    """Seconds of single-image calls, by so many callers who call again as soon as they have their answer."""
    until, seen = time.monotonic() + seconds, list[float]()

    async def call(number: int) -> None:
        while (began := time.monotonic()) < until:
            await _call(encode, images[number : number + 1], Priority.INTERACTIVE)
            seen.append(time.monotonic() - began)

    await asyncio.gather(*(call(number) for number in range(callers)))
    return seen


async def _call(encode: OneShotEndpoint, images: Array, priority: Priority) -> None:
    future = asyncio.get_running_loop().create_future()
    job = OneShotJob(len(images), future, inputs={IMAGE: images}, wanted=[MEAN], priority=priority)
    encode.submit(job)
    await job.answer()


async def _sample(sample: RasterEndpoint, count: int, seed: int = 1) -> None:
    job = RasterJob(rows=count, future=asyncio.get_running_loop().create_future(), seed=seed)
    sample.submit(job)
    await job.answer()


async def _median(work: Callable[[], Any], quick: bool) -> float:
    """Seconds, after one that warms up."""
    seen = []
    for _ in range(2 if quick else 1 + RUNS):
        began = time.perf_counter()
        await work()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen[1:])


def _p99(seconds: list[float]) -> float:
    return 1000 * float(np.quantile(seconds, 0.99)) if seconds else math.nan


def _reloads(loader: Loader, name: str, version: int, runtime: Runtime, times: int) -> tuple[int, int] | None:
    """Free bytes of the device after the first load has gone, and after so many."""
    try:
        driver = Driver(runtime.gpu or 0, runtime.library)
    except NoDevice:
        return None
    free = []
    for _ in range(times):
        with loaded(loader, name, version):
            pass
        driver.enter()
        free.append(driver.free_bytes())
    return free[0], free[-1]


def markdown(rates: list[ModelRates]) -> str:
    """The server's rates."""
    lines = [
        "## The server's own rates",
        "",
        f"Its engine without gRPC, {SLOTS} slots; medians of {RUNS}. Passes: over one parallel pass of as many images. "
        f"Reloads: {RELOADS}.",
        "",
        "| model | form | samples: ms (passes) | Encode in bulk, images/s (of onnxruntime alone) "
        f"| single calls/s, {IN_FLIGHT} in flight | p99 ms alone / beside samplers | free MiB after 1 / all reloads |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in rates:
        times = ", ".join(
            f"{count:,}: {ms:.1f} ({r.passes.get(count, math.nan):.2f})" for count, ms in r.sample_ms.items()
        )
        bulk = f"{r.encode_bulk:,.0f} ({r.encode_bulk / r.encode_raw:.2f})" if r.encode_raw else ""
        single = f"{r.encode_single:,.0f}" if r.encode_single else ""
        p99 = f"{r.encode_p99[0]:.2f} / {r.encode_p99[1]:.2f}" if r.encode_p99 else ""
        free = f"{r.reloads[0] / 2**20:,.0f} / {r.reloads[1] / 2**20:,.0f}" if r.reloads else ""
        lines.append(f"| {r.model} | {r.form} | {times} | {bulk} | {single} | {p99} | {free} |")
    return "\n".join([*lines, ""])
