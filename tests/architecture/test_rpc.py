"""The services speak in the protos' own types."""

from __future__ import annotations

import collections.abc
import inspect
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from ancestral.v1 import inference_service_pb2, model_service_pb2
from ancestral_server.rpc.inference import InferenceServicer
from ancestral_server.rpc.models import ModelServicer
from ancestral_server.rpc.open_inference.servicer import OpenInferenceServicer
from ancestral_server.rpc.roles import ONE_SHOT
from ancestral_server.runtime.program import Needs
from inference import open_inference_service_pb2

SERVICES: list[tuple[Any, ServiceDescriptor, Any]] = [
    (servicer, module.DESCRIPTOR.services_by_name[name], module)
    for servicer, module, name in (
        (InferenceServicer, inference_service_pb2, "InferenceService"),
        (ModelServicer, model_service_pb2, "ModelService"),
        (OpenInferenceServicer, open_inference_service_pb2, "GRPCInferenceService"),
    )
]
METHODS = [
    pytest.param(servicer, method, module, id=method.full_name)
    for servicer, service, module in SERVICES
    for method in service.methods
    if method.name in vars(servicer)
]


def message_of(kind: Any, *, streams: bool, sides: tuple[Any, ...]) -> Any:
    """The message that an annotation speaks of, alone or as a stream."""
    if not streams:
        return kind
    assert get_origin(kind) in sides, kind
    return get_args(kind)[0]


@pytest.mark.parametrize(("servicer", "method", "module"), METHODS)
def test_a_method_takes_and_gives_what_the_proto_says(servicer: Any, method: MethodDescriptor, module: Any) -> None:
    function = getattr(servicer, method.name)
    hints = get_type_hints(function)
    request = next(iter(hints[name] for name in inspect.signature(function).parameters if name in hints))
    asked = message_of(request, streams=method.client_streaming, sides=(collections.abc.AsyncIterator,))
    given = message_of(hints["return"], streams=method.server_streaming, sides=(collections.abc.AsyncGenerator,))
    assert asked is getattr(module, method.input_type.name)
    assert given is getattr(module, method.output_type.name)


def test_every_method_of_our_service_is_looked_at() -> None:
    looked_at = {str(parameter.id) for parameter in METHODS}
    service = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"]
    assert {method.full_name for method in service.methods} <= looked_at


@pytest.mark.parametrize("name", ONE_SHOT)
def test_a_role_says_what_it_needs(name: str) -> None:
    role = ONE_SHOT[name]
    assert name == role.NAME
    assert Needs() != role.NEEDS
