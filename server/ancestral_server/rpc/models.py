"""`ancestral.v1.ModelService`: which models there are, what they can do, and changing that."""

from __future__ import annotations

from ancestral.v1 import model_service_pb2 as pb
from ancestral.v1 import model_service_pb2_grpc
from ancestral_server.catalog import Catalog, ModelVersion, State
from ancestral_server.errors import PortShared
from ancestral_server.rpc import convert
from ancestral_server.rpc.parsing import Context
from ancestral_server.settings import Settings

_STATES = {
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.SERVING: pb.MODEL_STATE_SERVING,
    State.DRAINING: pb.MODEL_STATE_DRAINING,
    State.NOT_SERVING: pb.MODEL_STATE_NOT_SERVING,
}


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self._describe(model) for model in self._catalog])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        name = convert.model_name("name", request.name)
        model = self._catalog.describe(name, convert.version("version", request.version))
        return pb.GetModelResponse(model=self._describe(model))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        self._check_alone()
        name = convert.bundle_name("name", request.name)
        model = await self._catalog.load(name, convert.version("version", request.version))
        return pb.LoadModelResponse(model=self._describe(model))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        self._check_alone()
        name = convert.bundle_name("name", request.name)
        await self._catalog.unload(name, convert.version("version", request.version))
        return pb.UnloadModelResponse()

    def _check_alone(self) -> None:
        if self._settings.share_port:
            raise PortShared(
                "this server is one of several on its port: change the version in the folder of models, "
                "which all of them watch"
            )

    def _describe(self, model: ModelVersion) -> pb.Model:
        message = pb.Model(
            name=model.name,
            version=model.version,
            state=_STATES[model.state],
            reason=model.problem,
            device=model.device,
            bundle=model.manifest,
        )
        if model.serving:
            message.limits.CopyFrom(
                pb.ModelLimits(
                    max_sample_count=self._settings.max_sample_count if "sample" in model.endpoints else 0,
                    max_images=self._settings.max_images,
                    max_temperature=convert.MAX_TEMPERATURE,
                    max_message_bytes=self._settings.max_message_bytes,
                )
            )
        return message
