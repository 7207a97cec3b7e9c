"""`ancestral.v1.InferenceService`: unpack, ask the lane, pack. Nothing else happens here.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2, inference_service_pb2_grpc, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.engine.job import OneShotJob, Streams
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert, sampling
from ancestral_server.rpc.calls import Context, image_shape, info, run
from ancestral_server.runtime.program import Meaning, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
LATENT = bundle_pb2.MEANING_LATENT
LABEL = bundle_pb2.MEANING_LABEL
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
# What a reply needs beside its tensors.
_ENVELOPE_BYTES = 4096


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        with self._find(request) as model:
            ask = sampling.read(model, self._settings, request)
            sampling.check_reply(ask, self._settings.max_message_bytes - _ENVELOPE_BYTES)
            return await sampling.sample(ask, context)

    async def SampleStream(
        self, request: pb.SampleStreamRequest, context: Context
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        with self._find(request.sample, "sample.") as model:
            ask = sampling.read(model, self._settings, request.sample, "sample.")
            async with aclosing(sampling.stream(ask, context, request.progress, self._settings.max_batch)) as steps:
                async for step in steps:
                    yield step

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        with self._find(request) as model:
            lane = model.lane("encode")
            program = model.programs["encode"]
            images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
            inputs: dict[Meaning, Array | Streams] = {IMAGE: images}
            wanted = [m for m in (bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LOG_VARIANCE) if m in program.outputs]
            if request.HasField("draw_seed"):
                seed = convert.seed("draw_seed", request.draw_seed)
                if LATENT not in program.outputs or UNIFORMS not in program.inputs:
                    raise RoleMissing(
                        model.name,
                        f"draw_seed: the encoder of {model.name} is deterministic, draws nothing",
                        "draw_seed",
                    )
                inputs[UNIFORMS] = Streams(seed, 0, tuple(program.inputs[UNIFORMS].shape))
                wanted.append(LATENT)
            self._check_reply("images", program, wanted, len(images))
            job = await run(lane, context, len(images), inputs, wanted, convert.priority("priority", request.priority))
            return pb.EncodeResponse(
                info=info(model, job),
                mean=_output(job, bundle_pb2.MEANING_MEAN),
                log_variance=_output(job, bundle_pb2.MEANING_LOG_VARIANCE),
                latent=_output(job, LATENT),
            )

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        with self._find(request) as model:
            lane = model.lane("decode")
            program = model.programs["decode"]
            latents = convert.batch("latents", request.latents, program.inputs[LATENT], self._settings.max_images)
            self._check_reply("latents", program, [IMAGE], len(latents))
            priority = convert.priority("priority", request.priority)
            job = await run(lane, context, len(latents), {LATENT: latents}, [IMAGE], priority)
            return pb.DecodeResponse(info=info(model, job), images=_output(job, IMAGE))

    async def ExtractFeatures(self, request: pb.ExtractFeaturesRequest, context: Context) -> pb.ExtractFeaturesResponse:
        with self._find(request) as model:
            lane = model.lane("features")
            program = model.programs["features"]
            images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
            wanted = [bundle_pb2.MEANING_FEATURES]
            if request.include_map:
                if bundle_pb2.MEANING_FEATURE_MAP not in program.outputs:
                    raise RoleMissing(model.name, f"include_map: {model.name} has no feature map", "include_map")
                wanted.append(bundle_pb2.MEANING_FEATURE_MAP)
            self._check_reply("images", program, wanted, len(images))
            inputs = self._labelled(program, images, request.labels)
            job = await run(lane, context, len(images), inputs, wanted, convert.priority("priority", request.priority))
            return pb.ExtractFeaturesResponse(
                info=info(model, job),
                features=_output(job, bundle_pb2.MEANING_FEATURES),
                feature_map=_output(job, bundle_pb2.MEANING_FEATURE_MAP),
            )

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        with self._find(request) as model:
            lane = model.lane("score")
            program = model.programs["score"]
            images = convert.batch("images", request.images, program.inputs[IMAGE], self._settings.max_images)
            seed = convert.seed("seed", request.seed)
            inputs = self._labelled(program, images, request.labels)
            if UNIFORMS in program.inputs:
                inputs[UNIFORMS] = Streams(seed, 0, tuple(program.inputs[UNIFORMS].shape))
            priority = convert.priority("priority", request.priority)
            job = await run(lane, context, len(images), inputs, [LOG_LIKELIHOOD], priority)
            likelihood = job.output(LOG_LIKELIHOOD)
            dimensions = math.prod(image_shape(model))
            return pb.ScoreResponse(
                info=info(model, job),
                log_likelihood=convert.tensor(likelihood),
                bits_per_dim=convert.tensor((-likelihood / np.float32(dimensions * math.log(2))).astype(np.float32)),
                likelihood=program.role.likelihood,
            )

    def _find(self, request: Any, prefix: str = "") -> ModelVersion:
        """The model of a request, to be held in a `with` until the reply is packed; `prefix` as in `sampling.read`."""
        return self._catalog.find(
            convert.model_name(f"{prefix}model", request.model), convert.version(f"{prefix}version", request.version)
        )

    @staticmethod
    def _labelled(program: Program, images: Array, values: Sequence[int]) -> dict[Meaning, Array | Streams]:
        """The inputs of a role that takes images and, of a class-conditional model, their labels."""
        classes = program.label_count if LABEL in program.inputs else 0
        labels = convert.labels("labels", values, len(images), classes)
        return {IMAGE: images} if labels is None else {IMAGE: images, LABEL: labels}

    def _check_reply(self, field: str, program: Program, wanted: Sequence[Meaning], rows: int) -> None:
        per_row = sum(program.row_bytes[meaning] for meaning in wanted)
        convert.reply_size(field, rows, per_row, self._settings.max_message_bytes - _ENVELOPE_BYTES)


def _output(job: OneShotJob, meaning: Meaning) -> tensor_pb2.Tensor | None:
    return convert.tensor(job.output(meaning)) if meaning in job.pieces else None
