"""The model repository of the protocol: which models there are, and changing that. A model is loaded and unloaded
whole, which is what its name means to Triton's clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ancestral.text import short
from ancestral_server.catalog import Catalog, Key, ModelVersion, State
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.models import MOST_AT_ONCE, check_alone
from ancestral_server.rpc.open_inference import names
from ancestral_server.rpc.status import brief
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip

# By Triton's names.
_STATES = {
    State.LOADING: "LOADING",
    State.SERVING: "READY",
    State.DRAINING: "UNLOADING",
    State.NOT_SERVING: "UNAVAILABLE",
}
NOT_LOADED = "it is in the folder, and nobody has loaded it"

_Entry = oip.RepositoryIndexResponse.ModelIndex


async def index(
    catalog: Catalog, settings: Settings, request: oip.RepositoryIndexRequest
) -> oip.RepositoryIndexResponse:
    _check_repository(request.repository_name)
    entries: dict[Key, _Entry] = {}
    last: Key = ("", 0)
    while models := catalog.after(last, MOST_AT_ONCE):
        entries |= {model.key: _entry(model) for model in models if model.serving or not request.ready}
        last = models[-1].key
        await asyncio.sleep(0)
    if not request.ready:
        for name, version in await catalog.unloaded():
            entry = _Entry(name=name, version=str(version), state=_STATES[State.NOT_SERVING], reason=NOT_LOADED)
            entries.setdefault((name, version), entry)
    reply = oip.RepositoryIndexResponse(models=[entries[key] for key in sorted(entries)])
    if reply.ByteSize() > settings.max_message_bytes:
        raise InvalidArgument(
            "ready",
            f"is {str(request.ready).lower()}, which are {len(entries)} versions and {reply.ByteSize()} bytes, more "
            f"than fits a reply of {settings.max_message_bytes} bytes (the server's --max-message-mib); "
            "ancestral.v1.ModelService/ListModels tells of them in pages",
        )
    return reply


async def load(catalog: Catalog, settings: Settings, request: oip.RepositoryModelLoadRequest) -> None:
    check_alone(settings)
    _check_repository(request.repository_name)
    for parameter in request.parameters:
        raise InvalidArgument(
            f"parameters[{short(parameter)}]",
            "is not supported: a model is what lies in its folder, and comes with no other configuration or files",
        )
    await catalog.load_all(_model(catalog, request.model_name))


async def unload(catalog: Catalog, settings: Settings, request: oip.RepositoryModelUnloadRequest) -> None:
    check_alone(settings)
    _check_repository(request.repository_name)
    _check_unloading(request.parameters)
    await catalog.unload(_model(catalog, request.model_name), 0)


def _entry(model: ModelVersion) -> _Entry:
    return _Entry(name=model.name, version=str(model.version), state=_STATES[model.state], reason=brief(model.problem))


def _check_repository(name: str) -> None:
    if name:
        raise InvalidArgument("repository_name", f"is {short(name)!r}, must be empty: there is one folder of models")


def _check_unloading(values: Mapping[str, oip.ModelRepositoryParameter]) -> None:
    for name, value in values.items():
        if name != "unload_dependents":
            raise InvalidArgument(f"parameters[{short(name)}]", "is unknown; there is unload_dependents")
        if value.WhichOneof("parameter_choice") != "bool_param":
            raise InvalidArgument("parameters[unload_dependents]", "must be true or false (bool_param)")


def _model(catalog: Catalog, name: str) -> str:
    """The name of a model, which may become part of a path; InvalidArgument for that of a role."""
    name = convert.bundle_name("model_name", name)
    model, role = names.split(catalog, name)
    if role is not None and any(role in version.endpoints for version in catalog.serving(model)):
        problem = f"is {name!r}, a role of {model}; a model is loaded and unloaded whole, as {model!r}"
        raise InvalidArgument("model_name", problem)
    return name
