"""`ancestral.v1.InferenceService`: unpack, ask the lane, pack. Nothing else happens here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.rpc import bulk, convert, oneshot, sampling
from ancestral_server.rpc.calls import info, run
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.oneshot import ENVELOPE_BYTES, IMAGE, LATENT, check_reply, output
from ancestral_server.rpc.parsing import Context
from ancestral_server.rpc.repeats import Reader
from ancestral_server.settings import Settings

_PATH = "/ancestral.v1.InferenceService"


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings, draining: Draining) -> None:
        # By path: these methods, which take images, get what the readers make of a request, a `Request`.
        self.readers: Mapping[str, Reader] = {
            f"{_PATH}/Encode": Reader(pb.EncodeRequest),
            f"{_PATH}/EncodeStream": Reader(pb.EncodeStreamRequest, "encode"),
            f"{_PATH}/ExtractFeatures": Reader(pb.ExtractFeaturesRequest),
            f"{_PATH}/Classify": Reader(pb.ClassifyRequest),
            f"{_PATH}/Score": Reader(pb.ScoreRequest),
            f"{_PATH}/ScoreStream": Reader(pb.ScoreStreamRequest, "score"),
        }
        self._catalog = catalog
        self._settings = settings
        self._draining = draining

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        with self._find(request) as model:
            ask = sampling.read(model, self._settings, request)
            sampling.check_reply(ask, self._settings.max_message_bytes - ENVELOPE_BYTES)
            return await sampling.sample(ask, context)

    async def SampleStream(
        self, request: pb.SampleStreamRequest, context: Context
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        with self._find(request.sample, "sample.") as model:
            ask = sampling.read(model, self._settings, request.sample, "sample.")
            steps = sampling.stream(ask, context, request.progress, self._settings.max_batch, self._draining)
            async with aclosing(steps):
                async for step in steps:
                    yield step

    async def Encode(self, request: Any, context: Context) -> pb.EncodeResponse:
        with self._find(request.form) as model:
            endpoint = oneshot.endpoint(model, "encode")
            job = await endpoint.ask(oneshot.job("encode", model, request, self._settings, context))
            return oneshot.encode_reply(model, job)

    def EncodeStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[pb.EncodeStreamResponse]:
        return bulk.stream(bulk.ENCODE, requests, context, self._catalog, self._settings, self._draining)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        with self._find(request) as model:
            endpoint = model.endpoint("decode")
            program = model.programs["decode"]
            limit = convert.Limit.of(self._settings, "max_images")
            latents = convert.batch("latents", request.latents, program.inputs[LATENT], limit)
            check_reply("latents", program, [IMAGE], len(latents), self._settings)
            priority = convert.priority("priority", request.priority)
            job = await run(endpoint, context, len(latents), {LATENT: latents}, [IMAGE], priority)
            return pb.DecodeResponse(info=info(model, job), images=output(job, IMAGE))

    async def ExtractFeatures(self, request: Any, context: Context) -> pb.ExtractFeaturesResponse:
        with self._find(request.form) as model:
            endpoint = oneshot.endpoint(model, "features")
            job = await endpoint.ask(oneshot.job("features", model, request, self._settings, context))
            return oneshot.features_reply(model, job)

    async def Classify(self, request: Any, context: Context) -> pb.ClassifyResponse:
        with self._find(request.form) as model:
            endpoint = oneshot.endpoint(model, "classify")
            job = await endpoint.ask(oneshot.job("classify", model, request, self._settings, context))
            return oneshot.classify_reply(model, job)

    async def Score(self, request: Any, context: Context) -> pb.ScoreResponse:
        with self._find(request.form) as model:
            endpoint = oneshot.endpoint(model, "score")
            job = await endpoint.ask(oneshot.job("score", model, request, self._settings, context))
            return oneshot.score_reply(model, job)

    def ScoreStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[pb.ScoreStreamResponse]:
        return bulk.stream(bulk.SCORE, requests, context, self._catalog, self._settings, self._draining)

    def _find(self, request: Any, prefix: str = "") -> ModelVersion:
        """The model of a request, to be held in a `with` until the reply is packed; `prefix` as in `sampling.read`."""
        model = self._catalog.get(request.model, request.version)
        if model is not None:
            return model
        # Only now: no model has a name or a version that these refuse.
        name = convert.model_name(f"{prefix}model", request.model)
        return self._catalog.find(name, convert.version(f"{prefix}version", request.version))
