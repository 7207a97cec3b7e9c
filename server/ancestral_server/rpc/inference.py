"""`ancestral.v1.InferenceService`: each method finds the model and has its role answer (`rpc.roles`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from google.protobuf import message_factory

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.rpc import bulk, convert
from ancestral_server.rpc.asking import ask
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.roles import SERVICE_ROLES, role_of
from ancestral_server.rpc.roles.base import Asks, Req, Res, ServiceRole
from ancestral_server.rpc.roles.sample import Sample
from ancestral_server.settings import Settings

_METHODS = pb.DESCRIPTOR.services_by_name["InferenceService"].methods_by_name


def _reply(method: str) -> type[Any]:
    """The message that a method answers with."""
    return message_factory.GetMessageClass(_METHODS[method].output_type)


class InferenceServicer:
    """What generated code registers as the service. A role of `SERVICE_ROLES` has the methods that it names."""

    def __init__(self, catalog: Catalog, settings: Settings, draining: Draining) -> None:
        self._catalog = catalog
        self._draining = draining
        for kind in SERVICE_ROLES:
            setattr(self, kind.METHOD, partial(self._answer, kind, _reply(kind.METHOD)))
            if kind.STREAM:
                answers = partial(bulk.stream, kind, _reply(kind.STREAM))
                setattr(self, kind.STREAM, partial(answers, catalog=catalog, settings=settings, draining=draining))

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

    async def _answer(
        self, kind: type[ServiceRole[Req, Res]], reply_type: type[Res], request: Req, context: Context
    ) -> Res:
        """What the model's role of that kind gives."""
        reply = reply_type()
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
