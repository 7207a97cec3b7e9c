"""Sample and SampleStream: one set of checks, one meaning, two ways to answer; each of one-shot and of raster programs.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots, TakesRasters
from ancestral_server.engine.job import Completion, Job, NoiseStreams, OneShotJob, Priority, ProgressEvents, RasterJob
from ancestral_server.errors import Drained, RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.asking import answered, ask, caller, fill_info, give_up, submit
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.roles.base import Role, Served
from ancestral_server.rpc.roles.tensors import OneShotTensors, RasterTensors, Tensors
from ancestral_server.runtime.program import Meaning, Needs, OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Array

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
TEMPERATURE = bundle_pb2.MEANING_TEMPERATURE
LABEL = bundle_pb2.MEANING_LABEL
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD


@dataclass(frozen=True, slots=True)
class SampleCall:
    """A request that was read and found good: samples `first` to `first + count - 1` of the seed's sequence."""

    count: int
    seed: int
    first: int
    temperature: float
    label: int
    completion: Completion | None
    priority: Priority


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples that are finished: images [N,H,W,C] uint8, and [N] nats where the model tells how likely they are."""

    job: Job
    images: Array
    log_likelihood: Array | None

    def likelihood(self, index: int) -> float | None:
        return None if self.log_likelihood is None else float(self.log_likelihood[index])


@dataclass(frozen=True, slots=True)
class Row:
    """Row `row` of sample `index` of a call is painted: `pixels` [W,C]."""

    job: Job
    index: int
    row: int
    pixels: Array


@dataclass(frozen=True, slots=True)
class Image:
    """Sample `index` of a call is finished: `pixels` [H,W,C]."""

    job: Job
    index: int
    pixels: Array
    log_likelihood: float | None


class Sampler(Protocol):
    """How a kind of program draws."""

    # Whether it can keep pixels that are given.
    completes: bool

    async def draw(self, call: SampleCall, context: Context) -> Drawn:
        """All samples of a call. ServerError if it is refused, expires or fails."""

    def events(
        self, call: SampleCall, context: Context, draining: Draining, *, rows: bool
    ) -> AsyncGenerator[Row | Image]:
        """Samples as they finish, and their rows as they are painted where these are asked for and the program paints
        rows. ServerError as from `draw`; Drained if the server stops before the last sample.
        """


class Sample(Role):
    NAME = "sample"
    NEEDS = Needs(outputs=(IMAGE,))

    def __init__(self, served: Served, program: Program, tensors: Tensors, sampler: Sampler) -> None:
        super().__init__(served, program, tensors)
        self._sampler = sampler
        self._count = served.limit("max_sample_count")
        self._classes = program.label_count if LABEL in program.inputs else 0
        # 4 bytes more for the log-likelihood.
        self._sample_bytes = math.prod(served.image_shape) + 4

    def read(self, request: pb.SampleRequest, prefix: str = "") -> SampleCall:
        """Check every field; `prefix` is the path of the request in the message that brought it."""
        count = convert.count(f"{prefix}count", request.count, self._count)
        seed = secrets.randbelow(convert.MAX_SEED + 1)
        if request.HasField("seed"):
            seed = convert.seed(f"{prefix}seed", request.seed)
        first = convert.first_index(f"{prefix}first_index", request.first_index, count)
        temperature = 1.0
        if request.HasField("temperature"):
            temperature = convert.temperature(f"{prefix}temperature", request.temperature)
        label = request.label if request.HasField("label") else None
        label = convert.sample_label(f"{prefix}label", label, self._classes)
        kept = convert.completion(prefix, request, count, self.served.image_shape)
        if kept and not self._sampler.completes:
            field, name = f"{prefix}given", self.served.name
            raise RoleMissing(name, f"{field}: {name} draws all pixels at once and cannot complete an image", field)
        completion = Completion(*kept) if kept else None
        priority = Priority.INTERACTIVE
        if request.priority:
            priority = convert.priority(f"{prefix}priority", request.priority)
        return SampleCall(count, seed, first, temperature, label, completion, priority)

    async def sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        call = self.read(request)
        # A reply that would be too large is refused before any work.
        convert.reply_size("count", call.count, self._sample_bytes, self.room)
        drawn = await self._sampler.draw(call, context)
        reply = pb.SampleResponse(seed=call.seed, first_index=call.first)
        fill_info(reply.info, self.served.name, self.served.version, drawn.job)
        convert.fill(reply.images, drawn.images)
        if drawn.log_likelihood is not None:
            convert.fill(reply.log_likelihood, drawn.log_likelihood)
        return reply

    async def stream(
        self, request: pb.SampleStreamRequest, context: Context, draining: Draining
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        """Images as they finish; with `progress` rows as they are painted."""
        call = self.read(request.sample, "sample.")
        async with aclosing(self._sampler.events(call, context, draining, rows=request.progress)) as events:
            async for event in events:
                step = pb.SampleStreamResponse()
                fill_info(step.info, self.served.name, self.served.version, event.job)
                index = call.first + event.index
                if isinstance(event, Row):
                    step.row.index, step.row.row = index, event.row
                    convert.fill(step.row.pixels, event.pixels)
                else:
                    step.image.index, step.image.seed = index, call.seed
                    convert.fill(step.image.image, event.pixels)
                    if event.log_likelihood is not None:
                        step.image.log_likelihood = event.log_likelihood
                yield step


def one_shot_sample(served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> Sample:
    chunk = served.settings.max_batch
    tensors = OneShotTensors(program, endpoint, chunk)
    return Sample(served, program, tensors, OneShotSampler(program, endpoint, chunk))


def raster_sample(served: Served, program: RasterProgram, endpoint: TakesRasters) -> Sample:
    return Sample(served, program, RasterTensors(endpoint), RasterSampler(program, endpoint))


class OneShotSampler:
    """Draws all pixels of an image in one run. A stream gives `chunk` images at a time."""

    completes = False

    def __init__(self, program: OneShotProgram, endpoint: TakesOneShots, chunk: int) -> None:
        self._endpoint = endpoint
        self._chunk = chunk
        self._inputs = frozenset(program.inputs)
        self._noise = tuple(program.inputs[UNIFORMS].shape) if UNIFORMS in program.inputs else None
        self._wanted = [meaning for meaning in (IMAGE, LOG_LIKELIHOOD) if meaning in program.outputs]

    async def draw(self, call: SampleCall, context: Context) -> Drawn:
        inputs: dict[Meaning, Array | NoiseStreams] = {}
        if self._noise is not None:
            inputs[UNIFORMS] = NoiseStreams(call.seed, call.first, self._noise)
        if TEMPERATURE in self._inputs:
            inputs[TEMPERATURE] = np.full(call.count, call.temperature, np.float32)
        if LABEL in self._inputs:
            inputs[LABEL] = np.full(call.count, call.label, np.int64)
        job = OneShotJob(call.count, *caller(context), inputs=inputs, wanted=self._wanted, priority=call.priority)
        await ask(self._endpoint, job)
        return Drawn(job, job.output(IMAGE), job.output(LOG_LIKELIHOOD) if LOG_LIKELIHOOD in job.pieces else None)

    async def events(
        self, call: SampleCall, context: Context, draining: Draining, *, rows: bool
    ) -> AsyncGenerator[Row | Image]:
        for start in range(0, call.count, self._chunk):
            if draining.begun:
                raise Drained(call.first + start)
            part = replace(call, first=call.first + start, count=min(self._chunk, call.count - start))
            drawn = await self.draw(part, context)
            for i, pixels in enumerate(drawn.images):
                yield Image(drawn.job, start + i, pixels, drawn.likelihood(i))


class RasterSampler:
    """Paints images row by row."""

    completes = True

    def __init__(self, program: RasterProgram, endpoint: TakesRasters) -> None:
        self._endpoint = endpoint
        self._likely = LOG_LIKELIHOOD in program.outputs

    async def draw(self, call: SampleCall, context: Context) -> Drawn:
        return self._drawn(await ask(self._endpoint, self._job(call, context)))

    async def events(
        self, call: SampleCall, context: Context, draining: Draining, *, rows: bool
    ) -> AsyncGenerator[Row | Image]:
        if draining.begun:
            raise Drained(call.first)
        job = self._job(call, context, ProgressEvents(rows=rows))
        # What has begun is finished when the server stops, and the caller told where to go on.
        with draining.calling(lambda: self._endpoint.begin_no_more(job)):
            submit(self._endpoint, job)
            try:
                async with aclosing(job.events()) as events:
                    async for index, row in events:
                        if row is not None:
                            yield Row(job, index, row, job.images[index, row])
                        else:
                            yield Image(job, index, job.images[index], self._drawn(job).likelihood(index))
            except BaseException:
                give_up(job)
                raise
            await answered(job)
        if job.rows < call.count:
            raise Drained(call.first + job.rows)

    def _job(self, call: SampleCall, context: Context, feed: ProgressEvents | None = None) -> RasterJob:
        return RasterJob(
            call.count,
            *caller(context),
            seed=call.seed,
            first_index=call.first,
            temperature=call.temperature,
            label=call.label,
            completion=call.completion,
            feed=feed,
            priority=call.priority,
        )

    def _drawn(self, job: RasterJob) -> Drawn:
        return Drawn(job, job.images, job.log_likelihood if self._likely else None)
