"""`ancestral.v1.ModelService`: which models there are, what they can do, and changing that."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

from ancestral.text import short
from ancestral.v1 import model_service_pb2 as pb
from ancestral.v1 import model_service_pb2_grpc
from ancestral_server.catalog import Catalog, Key, ModelVersion, State
from ancestral_server.catalog.folder import version_of
from ancestral_server.errors import InvalidArgument, PortShared
from ancestral_server.rpc import convert
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.settings import Settings

# Of a page of models: a client takes 4 MiB unless it is told to take more. One model has at most half a MiB.
MOST_PAGE_BYTES = 4_000_000
# What an entry needs beside its own bytes, and an answer beside its entries.
ENTRY_BYTES, ENVELOPE_BYTES = 8, 1024
# So many are described before other calls have their turn: each takes about 50 µs.
MOST_AT_ONCE = 32

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
        # What a client holds its clock against (`ancestral doctor`), as HTTP has it; here, where nobody calls often.
        context.set_trailing_metadata((("date", formatdate(usegmt=True)),))
        last = _last_of_page("page_token", request.page_token)
        if request.page_size < 0:
            raise InvalidArgument("page_size", f"is {request.page_size}, must be 0 (as many as fit) or more")
        room = min(MOST_PAGE_BYTES, self._settings.max_message_bytes) - ENVELOPE_BYTES
        reply = pb.ListModelsResponse()
        while models := self._catalog.after(last, MOST_AT_ONCE):
            for model in models:
                message = self._describe(model)
                room -= message.ByteSize() + ENTRY_BYTES
                if room < 0 or 0 < request.page_size <= len(reply.models):
                    reply.next_page_token = f"{last[0]}/{last[1]}"
                    return reply
                reply.models.append(message)
                last = model.key
            await asyncio.sleep(0)
        return reply

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        name = convert.model_name("name", request.name)
        model = self._catalog.describe(name, convert.version("version", request.version))
        return pb.GetModelResponse(model=self._describe(model))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        check_alone(self._settings)
        name = convert.bundle_name("name", request.name)
        model = await self._catalog.load(name, convert.version("version", request.version))
        return pb.LoadModelResponse(model=self._describe(model))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        check_alone(self._settings)
        name = convert.bundle_name("name", request.name)
        await self._catalog.unload(name, convert.version("version", request.version))
        return pb.UnloadModelResponse()

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
            message.forms.extend(
                pb.RoleForm(role=role, form=form.name, reason=form.reason, device=form.device)
                for role, form in sorted(model.forms.items())
            )
            message.limits.CopyFrom(
                pb.ModelLimits(
                    max_sample_count=self._settings.max_sample_count if "sample" in model.endpoints else 0,
                    max_images=self._settings.max_images,
                    max_temperature=convert.MAX_TEMPERATURE,
                    max_message_bytes=self._settings.max_message_bytes,
                )
            )
        return message


def check_alone(settings: Settings) -> None:
    """PortShared where a change would be one of this server alone, of several on its port."""
    if settings.share_port:
        raise PortShared(
            "this server is one of several on its port: change the version in the folder of models, "
            "which all of them watch"
        )


def _last_of_page(field: str, token: str) -> Key:
    """The version that a page ended with; before all others where there was none."""
    if not token:
        return "", 0
    name, _, number = token.rpartition("/")
    version = version_of(number)
    if version is None:
        raise InvalidArgument(field, f"is {short(token)!r}, must be empty or the next_page_token of an earlier answer")
    return name, version
