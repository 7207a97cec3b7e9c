"""`inference.GRPCInferenceService`: the protocol's methods, each a few words about what the modules beside do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from importlib import metadata

from ancestral.text import short
from ancestral_server.catalog import Catalog
from ancestral_server.errors import InvalidArgument, NotFound, Unavailable
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.open_inference import describe, infer, names, repository
from ancestral_server.rpc.open_inference.stream import answers
from ancestral_server.rpc.roles import role_at
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
_FIELDS = ("name", "version")


class OpenInferenceServicer(oip_grpc.GRPCInferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings, draining: Draining) -> None:
        self._catalog = catalog
        self._settings = settings
        self._draining = draining
        self._version = metadata.version("ancestral")

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        # The server opens when every model is warm.
        return oip.ServerReadyResponse(ready=not self._catalog.stopping.is_set())

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        try:
            names.find(self._catalog, request.name, request.version, fields=_FIELDS)
        except (NotFound, Unavailable):
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="ancestral", version=self._version, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        model, role = names.find(self._catalog, request.name, request.version, fields=_FIELDS)
        serving = [version for version, _ in names.serving(self._catalog, request.name)]
        return describe.metadata(request.name, role_at(model, role), model.device, serving)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        model, role = infer.find(self._catalog, request)
        with model:
            call = infer.read(role, request)
            return infer.reply(call, request, await role.tensors.infer(call.tensors, context))

    def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncGenerator[oip.ModelStreamInferResponse]:
        return answers(requests, context, self._catalog, self._settings, self._draining)

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        model, role = names.find(self._catalog, request.name, request.version, fields=_FIELDS)
        return oip.ModelConfigResponse(config=describe.config(request.name, role_at(model, role), self._settings))

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        if request.name:
            found = names.find(self._catalog, request.name, request.version, fields=_FIELDS)
            which = [found] if request.version else names.serving(self._catalog, request.name)
            shown = [(request.name, model, role) for model, role in which]
        elif request.version:
            raise InvalidArgument("version", f"is {short(request.version)!r}, must be empty where name is")
        else:
            shown = [(f"{model.name}.{role}", model, role) for model in self._catalog for role in model.endpoints]
        return oip.ModelStatisticsResponse(model_stats=[describe.statistics(*entry) for entry in shown])

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        return await repository.index(self._catalog, self._settings, request)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        await repository.load(self._catalog, self._settings, request)
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        await repository.unload(self._catalog, self._settings, request)
        return oip.RepositoryModelUnloadResponse()
