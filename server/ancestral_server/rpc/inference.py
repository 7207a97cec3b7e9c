"""`ancestral.v1.InferenceService`: each method finds the model and has its role answer (`rpc.roles`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.rpc import bulk, convert
from ancestral_server.rpc.asking import ask
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.roles import role_of
from ancestral_server.rpc.roles.base import Asks, Req, Res, ServiceRole
from ancestral_server.rpc.roles.classify import Classify
from ancestral_server.rpc.roles.decode import Decode
from ancestral_server.rpc.roles.encode import Encode
from ancestral_server.rpc.roles.features import Features
from ancestral_server.rpc.roles.sample import Sample
from ancestral_server.rpc.roles.score import Score
from ancestral_server.settings import Settings


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings, draining: Draining) -> None:
        self._catalog = catalog
        self._draining = draining
        self._bulk = partial(bulk.stream, catalog=catalog, settings=settings, draining=draining)

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        with self._find(request) as model:
            return await role_of(model, Sample).sample(request, context)

    async def SampleStream(
        self, request: pb.SampleStreamRequest, context: Context
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        with self._find(request.sample, "sample.") as model:
            role = role_of(model, Sample, "sample.model")
            async with aclosing(role.stream(request, context, self._draining)) as steps:
                async for step in steps:
                    yield step

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        return await self._answer(Encode, request, pb.EncodeResponse(), context)

    def EncodeStream(
        self, requests: AsyncIterator[pb.EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[pb.EncodeStreamResponse]:
        return self._bulk(bulk.ENCODE, requests, context)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        return await self._answer(Decode, request, pb.DecodeResponse(), context)

    async def ExtractFeatures(self, request: pb.ExtractFeaturesRequest, context: Context) -> pb.ExtractFeaturesResponse:
        return await self._answer(Features, request, pb.ExtractFeaturesResponse(), context)

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        return await self._answer(Classify, request, pb.ClassifyResponse(), context)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        return await self._answer(Score, request, pb.ScoreResponse(), context)

    def ScoreStream(
        self, requests: AsyncIterator[pb.ScoreStreamRequest], context: Context
    ) -> AsyncGenerator[pb.ScoreStreamResponse]:
        return self._bulk(bulk.SCORE, requests, context)

    async def _answer(self, kind: type[ServiceRole[Req, Res]], request: Req, reply: Res, context: Context) -> Res:
        """Fill an empty reply to a request with what the model's role of that kind gives."""
        with self._find(request) as model:
            role = role_of(model, kind)
            role.write(reply, await ask(role.endpoint, role.job(request, context)))
        return reply

    def _find(self, request: Asks, prefix: str = "") -> ModelVersion:
        """The model of a request, to be held in a `with` until the reply is packed; `prefix` is the path of the request
        in the message that brought it.
        """
        model = self._catalog.get(request.model, request.version)
        if model is not None:
            return model
        # Only now: no model has a name or a version that these refuse.
        name = convert.model_name(f"{prefix}model", request.model)
        return self._catalog.find(name, convert.version(f"{prefix}version", request.version))
