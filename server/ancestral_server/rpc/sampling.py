"""Sample and SampleStream: one set of checks, one meaning, two ways to answer.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.endpoint import OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import Completion, Feed, Job, OneShotJob, Priority, RasterJob, Streams
from ancestral_server.errors import Drained, RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import caller, image_shape, info, run
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.parsing import Context
from ancestral_server.runtime.program import Meaning, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
TEMPERATURE = bundle_pb2.MEANING_TEMPERATURE
LABEL = bundle_pb2.MEANING_LABEL
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD


@dataclass(frozen=True)
class Ask:
    """A request that was read and found good."""

    model: ModelVersion
    endpoint: OneShotEndpoint | RasterEndpoint
    program: Program
    count: int
    seed: int
    first: int
    temperature: float
    label: int
    completion: Completion | None
    priority: Priority


def read(model: ModelVersion, settings: Settings, request: pb.SampleRequest, prefix: str = "") -> Ask:
    """Check every field; `prefix` is the path of the request in the message that brought it."""
    endpoint = model.endpoint("sample", f"{prefix}model")
    program = model.programs["sample"]
    count = convert.count(f"{prefix}count", request.count, convert.Limit.of(settings, "max_sample_count"))
    seed = secrets.randbelow(convert.MAX_SEED + 1)
    if request.HasField("seed"):
        seed = convert.seed(f"{prefix}seed", request.seed)
    first = convert.first_index(f"{prefix}first_index", request.first_index, count)
    temperature = 1.0
    if request.HasField("temperature"):
        temperature = convert.temperature(f"{prefix}temperature", request.temperature)
    classes = program.label_count if LABEL in program.inputs else 0
    label = convert.sample_label(f"{prefix}label", request.label if request.HasField("label") else None, classes)
    kept = convert.completion(prefix, request, count, image_shape(model))
    if kept and not isinstance(endpoint, RasterEndpoint):
        raise RoleMissing(
            model.name,
            f"{prefix}given: {model.name} draws all pixels at once and cannot complete an image",
            f"{prefix}given",
        )
    completion = Completion(*kept) if kept else None
    priority = convert.priority(f"{prefix}priority", request.priority)
    return Ask(model, endpoint, program, count, seed, first, temperature, label, completion, priority)


def check_reply(ask: Ask, room: int) -> None:
    """Refuse before any work what would not fit one reply of so many bytes."""
    # 4 bytes more for the log-likelihood.
    convert.reply_size("count", ask.count, math.prod(image_shape(ask.model)) + 4, room)


async def sample(ask: Ask, context: Context) -> pb.SampleResponse:
    job: Job
    if isinstance(ask.endpoint, RasterEndpoint):
        job = raster = _raster_job(ask, context)
        await ask.endpoint.ask(raster)
        images, likelihood = raster.images, raster.log_likelihood if _likely(ask) else None
    else:
        job = one_shot = await _run(ask, context, 0, ask.count)
        images, likelihood = _outputs(one_shot)
    return pb.SampleResponse(
        info=info(ask.model, job),
        images=convert.tensor(images),
        log_likelihood=None if likelihood is None else convert.tensor(likelihood),
        seed=ask.seed,
        first_index=ask.first,
    )


async def stream(
    ask: Ask, context: Context, progress: bool, chunk: int, draining: Draining
) -> AsyncGenerator[pb.SampleStreamResponse]:
    """Images as they finish; with `progress` rows as they are painted. Drained if the server stops before the last one.

    A one-shot model gives `chunk` images at a time.
    """
    if isinstance(ask.endpoint, RasterEndpoint):
        if draining.begun:
            raise Drained(ask.first)
        endpoint, job = ask.endpoint, _raster_job(ask, context, Feed(progress))
        with draining.calling(lambda: endpoint.begin_no_more(job)):
            async with aclosing(endpoint.watch(job)) as events:
                async for index, row in events:
                    if row is not None:
                        pixels = convert.tensor(job.images[index, row])
                        painted = pb.PaintedRow(index=ask.first + index, row=row, pixels=pixels)
                        yield pb.SampleStreamResponse(info=info(ask.model, job), row=painted)
                    else:
                        likelihood = job.log_likelihood[index] if _likely(ask) else None
                        image = _image(ask, index, job.images[index], likelihood)
                        yield pb.SampleStreamResponse(info=info(ask.model, job), image=image)
        if job.rows < ask.count:
            raise Drained(ask.first + job.rows)
        return
    for start in range(0, ask.count, chunk):
        if draining.begun:
            raise Drained(ask.first + start)
        one_shot = await _run(ask, context, start, min(start + chunk, ask.count))
        images, likelihoods = _outputs(one_shot)
        for i, pixels in enumerate(images):
            image = _image(ask, start + i, pixels, None if likelihoods is None else likelihoods[i])
            yield pb.SampleStreamResponse(info=info(ask.model, one_shot), image=image)


def _likely(ask: Ask) -> bool:
    """Whether the model tells how likely its samples are."""
    return LOG_LIKELIHOOD in ask.program.outputs


def _raster_job(ask: Ask, context: Context, feed: Feed | None = None) -> RasterJob:
    return RasterJob(
        ask.count,
        *caller(context),
        seed=ask.seed,
        first_index=ask.first,
        temperature=ask.temperature,
        label=ask.label,
        completion=ask.completion,
        feed=feed,
        priority=ask.priority,
    )


async def _run(ask: Ask, context: Context, start: int, stop: int) -> OneShotJob:
    """Samples `start` to `stop` of a one-shot model."""
    rows, specs = stop - start, ask.program.inputs
    inputs: dict[Meaning, Array | Streams] = {}
    if UNIFORMS in specs:
        inputs[UNIFORMS] = Streams(ask.seed, ask.first + start, tuple(specs[UNIFORMS].shape))
    if TEMPERATURE in specs:
        inputs[TEMPERATURE] = np.full(rows, ask.temperature, np.float32)
    if LABEL in specs:
        inputs[LABEL] = np.full(rows, ask.label, np.int64)
    wanted = [meaning for meaning in (IMAGE, LOG_LIKELIHOOD) if meaning in ask.program.outputs]
    return await run(ask.endpoint, context, rows, inputs, wanted, ask.priority)


def _outputs(job: OneShotJob) -> tuple[Array, Array | None]:
    return job.output(IMAGE), job.output(LOG_LIKELIHOOD) if LOG_LIKELIHOOD in job.pieces else None


def _image(ask: Ask, index: int, image: Array, log_likelihood: np.float32 | None) -> pb.SampledImage:
    """Sample `index` of the request, image [H,W,C]."""
    likelihood = None if log_likelihood is None else float(log_likelihood)
    return pb.SampledImage(
        index=ask.first + index, seed=ask.seed, image=convert.tensor(image), log_likelihood=likelihood
    )
