"""`ancestral.v1.InferenceService`: unpack, ask the lane, pack. Nothing else happens here.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from ancestral.v1 import bundle_pb2, inference_service_pb2_grpc, tensor_pb2, timing_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.job import Job, OneShotJob, RasterJob, Streams
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.interceptor import request_id
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

Context = grpc.aio.ServicerContext[Any, Any]

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
LATENT = bundle_pb2.MEANING_LATENT
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
# What a reply needs beside its tensors.
_ENVELOPE_BYTES = 4096


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        model = self._find(request)
        count = convert.count("count", request.count, self._settings.max_sample_count)
        given_seed = request.HasField("seed")
        seed = convert.seed("seed", request.seed) if given_seed else secrets.randbelow(convert.MAX_SEED + 1)
        first = convert.first_index("first_index", request.first_index, count)
        temperature = (
            convert.temperature("temperature", request.temperature) if request.HasField("temperature") else 1.0
        )
        lane = model.lane("sample")
        image = model.programs["sample"]
        shape = _image_shape(model)
        # 4 bytes more for the log-likelihood.
        room = self._settings.max_message_bytes - _ENVELOPE_BYTES
        convert.reply_size("count", count, math.prod(shape) + 4, room)

        job: Job
        if isinstance(lane, RasterLoop):
            job = await lane.ask(
                RasterJob(
                    **_caller(context),
                    rows=count,
                    seed=seed,
                    first_index=first,
                    temperature=temperature,
                )
            )
            images = job.images
            likelihood = job.log_likelihood if lane.has_log_likelihood else None
        else:
            inputs: dict[Meaning, Array | Streams] = {}
            if UNIFORMS in image.inputs:
                inputs[UNIFORMS] = Streams(seed, first, tuple(image.inputs[UNIFORMS].shape))
            if bundle_pb2.MEANING_TEMPERATURE in image.inputs:
                inputs[bundle_pb2.MEANING_TEMPERATURE] = np.full(count, temperature, np.float32)
            wanted = [meaning for meaning in (IMAGE, LOG_LIKELIHOOD) if meaning in image.outputs]
            job = await self._run(lane, context, count, inputs, wanted)
            images = job.output(IMAGE)
            likelihood = job.output(LOG_LIKELIHOOD) if LOG_LIKELIHOOD in wanted else None
        return pb.SampleResponse(
            info=_info(model, job),
            images=convert.tensor(images),
            log_likelihood=None if likelihood is None else convert.tensor(likelihood),
            seed=seed,
            first_index=first,
        )

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        model = self._find(request)
        lane = model.lane("encode")
        program = model.programs["encode"]
        images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
        inputs: dict[Meaning, Array | Streams] = {IMAGE: images}
        wanted = [m for m in (bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LOG_VARIANCE) if m in program.outputs]
        if request.HasField("draw_seed"):
            seed = convert.seed("draw_seed", request.draw_seed)
            if LATENT not in program.outputs or UNIFORMS not in program.inputs:
                raise RoleMissing(
                    model.name, f"draw_seed: the encoder of {model.name} is deterministic and draws nothing"
                )
            inputs[UNIFORMS] = Streams(seed, 0, tuple(program.inputs[UNIFORMS].shape))
            wanted.append(LATENT)
        self._check_reply("images", program, wanted, len(images))
        job = await self._run(lane, context, len(images), inputs, wanted)
        return pb.EncodeResponse(
            info=_info(model, job),
            mean=_output(job, bundle_pb2.MEANING_MEAN),
            log_variance=_output(job, bundle_pb2.MEANING_LOG_VARIANCE),
            latent=_output(job, LATENT),
        )

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        model = self._find(request)
        lane = model.lane("decode")
        program = model.programs["decode"]
        latents = convert.batch("latents", request.latents, program.inputs[LATENT], self._settings.max_images)
        self._check_reply("latents", program, [IMAGE], len(latents))
        job = await self._run(lane, context, len(latents), {LATENT: latents}, [IMAGE])
        return pb.DecodeResponse(info=_info(model, job), images=_output(job, IMAGE))

    async def ExtractFeatures(self, request: pb.ExtractFeaturesRequest, context: Context) -> pb.ExtractFeaturesResponse:
        model = self._find(request)
        lane = model.lane("features")
        program = model.programs["features"]
        images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
        wanted = [bundle_pb2.MEANING_FEATURES]
        if request.include_map:
            if bundle_pb2.MEANING_FEATURE_MAP not in program.outputs:
                raise RoleMissing(model.name, f"include_map: {model.name} has no feature map")
            wanted.append(bundle_pb2.MEANING_FEATURE_MAP)
        self._check_reply("images", program, wanted, len(images))
        job = await self._run(lane, context, len(images), {IMAGE: images}, wanted)
        return pb.ExtractFeaturesResponse(
            info=_info(model, job),
            features=_output(job, bundle_pb2.MEANING_FEATURES),
            feature_map=_output(job, bundle_pb2.MEANING_FEATURE_MAP),
        )

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        model = self._find(request)
        lane = model.lane("score")
        program = model.programs["score"]
        images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
        seed = convert.seed("seed", request.seed)
        inputs: dict[Meaning, Array | Streams] = {IMAGE: images}
        if UNIFORMS in program.inputs:
            inputs[UNIFORMS] = Streams(seed, 0, tuple(program.inputs[UNIFORMS].shape))
        job = await self._run(lane, context, len(images), inputs, [LOG_LIKELIHOOD])
        likelihood = job.output(LOG_LIKELIHOOD)
        dimensions = math.prod(_image_shape(model))
        return pb.ScoreResponse(
            info=_info(model, job),
            log_likelihood=convert.tensor(likelihood),
            bits_per_dim=convert.tensor((-likelihood / np.float32(dimensions * math.log(2))).astype(np.float32)),
            likelihood=program.role.likelihood,
        )

    def _find(self, request: Any) -> ModelVersion:
        return self._catalog.find(
            convert.model_name("model", request.model), convert.version("version", request.version)
        )

    def _check_reply(self, field: str, program: Any, wanted: Sequence[Meaning], rows: int) -> None:
        per_row = sum(4 * math.prod(program.outputs[meaning].shape) for meaning in wanted)
        convert.reply_size(field, rows, per_row, self._settings.max_message_bytes - _ENVELOPE_BYTES)

    @staticmethod
    async def _run(
        lane: BatchLoop | RasterLoop,
        context: Context,
        rows: int,
        inputs: dict[Meaning, Array | Streams],
        wanted: Sequence[Meaning],
    ) -> OneShotJob:
        assert isinstance(lane, BatchLoop), "only `sample` may be a raster role; the catalog refuses others"
        job = OneShotJob(**_caller(context), rows=rows, inputs=inputs, wanted=wanted)
        await lane.ask(job)
        return job


def _caller(context: Context) -> dict[str, Any]:
    """What a job knows of the call: where to answer and until when."""
    remaining = context.time_remaining()
    deadline = math.inf if remaining is None else time.monotonic() + remaining
    return {"future": asyncio.get_running_loop().create_future(), "deadline": deadline}


def _image_shape(model: ModelVersion) -> tuple[int, int, int]:
    assert model.manifest is not None
    image = model.manifest.image
    return image.height, image.width, image.channels


def _output(job: OneShotJob, meaning: Meaning) -> tensor_pb2.Tensor | None:
    return convert.tensor(job.output(meaning)) if meaning in job.pieces else None


def _info(model: ModelVersion, job: Job) -> timing_pb2.ReplyInfo:
    return timing_pb2.ReplyInfo(
        request_id=request_id.get(),
        model=model.name,
        version=model.version,
        timing=timing_pb2.Timing(
            queue_seconds=job.queue_seconds,
            compute_seconds=job.compute_seconds,
            total_seconds=time.monotonic() - job.submitted,
        ),
    )
