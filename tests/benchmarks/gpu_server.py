"""The server's own rates on a GPU: its engine on the bundles of a folder, in this process, without gRPC.

Needs what the server needs but gRPC: structlog, prometheus-client and pydantic beside onnxruntime.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
# Of each model, at most, and at least two; seconds of all models.
RELOADS, RELOAD_SECONDS = 50, 40.0


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
    # The same single calls of a server that computes on this machine's cores.
    encode_single_cpu: float = 0.0
    # p99 of a single Encode, ms, alone and beside samplers, of any of the models, that want all they can have.
    encode_p99: tuple[float, float] | None = None
    # How often it was loaded again, and free bytes of the device after the first and after the last time.
    reloads: tuple[int, int, int] | None = None


@contextmanager
def loaded(loader: Loader, name: str, version: int) -> Iterator[ModelVersion]:
    model = loader.load(name, version)
    assert model.serving, model.problem
    try:
        yield model
    finally:
        model.close()


def measure(
    models: Path, only: Sequence[str] | None, device: str, library: str, *, quick: bool = False
) -> Iterator[list[ModelRates]]:
    """Of the newest version of every model in the folder, or of those of these names; the figures so far, whenever
    there are more. quick: a rehearsal, whose figures say nothing.
    """
    newest: dict[str, int] = {}
    for manifest in models.glob("[!.]*/*/bundle.json"):
        name = manifest.parent.parent.name
        if only and name not in only:
            continue
        newest[name] = max(newest.get(name, 0), int(manifest.parent.name))
    runtime, loader = _loader(models, device, library, quick)
    rates: dict[str, ModelRates] = {}
    # One event loop for all: a lane stays with the one that it met first.
    with asyncio.Runner() as runner, ExitStack() as stack:
        here = {name: stack.enter_context(loaded(loader, name, version)) for name, version in sorted(newest.items())}
        for name, model in here.items():
            rates[name] = ModelRates(f"{name}/{model.version}")
            for step in (_samples, _encode):
                runner.run(step(rates[name], model, quick))
                yield [*rates.values()]
        samplers = [model for model in here.values() if isinstance(model.endpoints.get("sample"), RasterEndpoint)]
        for name, model in here.items():
            if samplers and _encoder(model):
                runner.run(_isolation(rates[name], model, samplers[0], quick))
                yield [*rates.values()]
    cpu = _loader(models, "cpu", library, quick)[1]
    for name, version in sorted(newest.items()):
        if rates[name].encode_single:
            with loaded(cpu, name, version) as model:
                rates[name].encode_single_cpu = asyncio.run(_single_rate(model, quick))
            yield [*rates.values()]
    end = time.monotonic() + RELOAD_SECONDS
    # Those that paint take longest to load: they have what time the others left.
    waiting = sorted(newest, key=lambda name: rates[name].form != "")
    while waiting:
        name, share = waiting[0], (end - time.monotonic()) / len(waiting)
        for seen in _reloads(loader, name, newest[name], runtime, 2 if quick else RELOADS, share):
            rates[name].reloads = seen
            yield [*rates.values()]
        del waiting[0]


def _loader(models: Path, device: str, library: str, quick: bool) -> tuple[Runtime, Loader]:
    """Of a server that refuses nobody."""
    settings = Settings(models=models, device=device)
    if quick:
        settings = settings.model_copy(update={"slots": 4, "max_batch": 8})
    elif device != "cpu":
        settings = settings.model_copy(update={"slots": SLOTS, "max_batch": 1024})
    patient = settings.model_copy(update={"max_queue_ms": 3.6e6, "max_queued_images": 10**7, "max_queued_calls": 10**6})
    runtime = Runtime(device, settings.threads, library=library)
    return runtime, Loader(patient, runtime, Metrics("bench"), Arrivals())


def _encoder(model: ModelVersion) -> tuple[OneShotProgram, OneShotEndpoint] | None:
    """Of a model that encodes images to a mean, given no more than these."""
    program, endpoint = model.programs.get("encode"), model.endpoints.get("encode")
    if not isinstance(program, OneShotProgram) or not isinstance(endpoint, OneShotEndpoint):
        return None
    return (program, endpoint) if set(program.inputs) == {IMAGE} and MEAN in program.outputs else None


async def _samples(rates: ModelRates, model: ModelVersion, quick: bool) -> None:
    sample, score = model.endpoints.get("sample"), model.programs.get("score")
    if not isinstance(sample, RasterEndpoint):
        return
    rates.form = model.forms["sample"].name
    if model.forms["sample"].reason:
        rates.form += f": {model.forms['sample'].reason}"
    for count in COUNTS[:2] if quick else COUNTS:
        rates.sample_ms[count] = 1000 * await _median(partial(_sample, sample, count), quick)
        if isinstance(score, OneShotProgram) and set(score.inputs) == {IMAGE}:
            images = np.zeros((count, *score.image_shape), np.uint8)
            once = await _median(partial(asyncio.to_thread, score.run, {IMAGE: images}, list(score.outputs)), quick)
            rates.passes[count] = rates.sample_ms[count] / 1000 / once


async def _encode(rates: ModelRates, model: ModelVersion, quick: bool) -> None:
    if (found := _encoder(model)) is None:
        return
    program, encode = found
    bulk = _images(program, 200 if quick else BULK)
    took = await _median(lambda: _call(encode, bulk, Priority.BATCH), quick)
    rates.encode_bulk = len(bulk) / took
    batch = bulk[: encode.rows_at_a_time]
    took = await _median(lambda: asyncio.to_thread(program.run, {IMAGE: batch}, [MEAN]), quick)
    rates.encode_raw = len(batch) / took
    rates.encode_single = await _single_rate(model, quick)


async def _single_rate(model: ModelVersion, quick: bool) -> float:
    """Single calls a second."""
    found = _encoder(model)
    assert found is not None
    seconds = 0.1 if quick else SECONDS
    return len(await _single(found[1], _images(found[0], IN_FLIGHT), IN_FLIGHT, seconds)) / seconds


async def _isolation(rates: ModelRates, model: ModelVersion, sampler: ModelVersion, quick: bool) -> None:
    found, sample = _encoder(model), sampler.endpoints["sample"]
    assert found is not None
    assert isinstance(sample, RasterEndpoint)
    (program, encode), seconds = found, 0.1 if quick else SECONDS
    images = _images(program, 1)
    alone = await _single(encode, images, 1, seconds)
    samplers = [asyncio.create_task(_sample(sample, 100 if quick else 10_000, seed)) for seed in range(4)]
    beside = await _single(encode, images, 1, seconds)
    for task in samplers:
        task.cancel()
    await asyncio.gather(*samplers, return_exceptions=True)
    rates.encode_p99 = _p99(alone), _p99(beside)


def _images(program: OneShotProgram, count: int) -> Array:
    return np.random.default_rng(1).integers(0, 256, (count, *program.image_shape), dtype=np.uint8)


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


def _reloads(
    loader: Loader, name: str, version: int, runtime: Runtime, most: int, seconds: float
) -> Iterator[tuple[int, int, int]]:
    """How many there were, free bytes of the device after the first has gone, and after the last so far."""
    try:
        driver = Driver(runtime.gpu or 0, runtime.library)
    except NoDevice:
        return
    end, free = time.monotonic() + seconds, list[int]()
    while len(free) < most and (len(free) < 2 or time.monotonic() < end):
        with loaded(loader, name, version):
            pass
        driver.enter()
        free.append(driver.free_bytes())
        yield len(free), free[0], free[-1]


def markdown(rates: list[ModelRates]) -> str:
    """The server's rates."""
    lines = [
        "## The server's own rates",
        "",
        f"Its engine without gRPC, {SLOTS} slots; medians of {RUNS}. Passes: over one parallel pass of as many images.",
        "",
        "| model | form | samples: ms (passes) | Encode in bulk, images/s (of onnxruntime alone) "
        f"| single calls/s, {IN_FLIGHT} in flight | on the cores | p99 ms alone / beside samplers "
        "| free MiB after 1 / all reloads |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in rates:
        times = ", ".join(
            f"{count:,}: {ms:.1f} ({r.passes.get(count, math.nan):.2f})" for count, ms in r.sample_ms.items()
        )
        bulk = f"{r.encode_bulk:,.0f} ({r.encode_bulk / r.encode_raw:.2f})" if r.encode_raw else ""
        single, cores = (f"{rate:,.0f}" if rate else "" for rate in (r.encode_single, r.encode_single_cpu))
        p99 = f"{r.encode_p99[0]:.2f} / {r.encode_p99[1]:.2f}" if r.encode_p99 else ""
        free = ""
        if r.reloads:
            times_loaded, first, last = r.reloads
            free = f"{first / 2**20:,.0f} / {last / 2**20:,.0f} ({times_loaded} reloads)"
        lines.append(f"| {r.model} | {r.form} | {times} | {bulk} | {single} | {cores} | {p99} | {free} |")
    return "\n".join([*lines, ""])
