"""`inference.GRPCInferenceService`: the protocol's methods, each a few words about what the modules beside do."""

from __future__ import annotations

from importlib import metadata

from ancestral.text import short
from ancestral_server.catalog import Catalog
from ancestral_server.errors import InvalidArgument, NotFound, Unavailable
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.open_inference import describe, infer, names
from ancestral_server.rpc.roles import role_at
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc

EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "schedule_policy", "statistics")
_FIELDS = ("name", "version")


class OpenInferenceServicer(oip_grpc.GRPCInferenceServiceServicer):
    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
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
        if len(request.id) > infer.MAX_ID:
            raise InvalidArgument("id", f"has {len(request.id)} characters, must have at most {infer.MAX_ID}")
        model, role = names.find(
            self._catalog, request.model_name, request.model_version, fields=("model_name", "model_version")
        )
        with model:
            call = infer.read(role_at(model, role), request)
            return infer.reply(call, request, await call.role.tensors.infer(call.tensors, context))

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
