"""The services speak in the protos' own types."""

from __future__ import annotations

import collections.abc
import inspect
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

import ancestral_server
from ancestral.v1 import inference_service_pb2, model_service_pb2
from ancestral_server.rpc.inference import InferenceServicer
from ancestral_server.rpc.models import ModelServicer
from ancestral_server.rpc.open_inference.servicer import OpenInferenceServicer
from ancestral_server.rpc.roles import SERVICE_ROLES
from ancestral_server.rpc.roles.base import ServiceRole
from ancestral_server.runtime.program import Needs
from inference import open_inference_service_pb2

INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"]
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


def types_of(kind: type[ServiceRole[Any, Any]]) -> tuple[type[Message], type[Message]]:
    """The request and the reply of a role, which mypy checks its code against."""
    (base,) = (base for base in vars(kind)["__orig_bases__"] if get_origin(base) is ServiceRole)
    request, reply = get_args(base)
    return request, reply


@pytest.mark.parametrize("kind", SERVICE_ROLES)
def test_a_role_takes_and_gives_what_the_proto_says_of_its_methods(kind: type[ServiceRole[Any, Any]]) -> None:
    request, reply = types_of(kind)
    method = INFERENCE.methods_by_name[kind.METHOD]
    assert (method.input_type, method.output_type) == (request.DESCRIPTOR, reply.DESCRIPTOR)
    assert not method.client_streaming
    assert not method.server_streaming
    if kind.STREAM:
        stream = INFERENCE.methods_by_name[kind.STREAM]
        assert stream.client_streaming
        assert stream.server_streaming
        assert stream.input_type.fields_by_name[kind.NAME].message_type == request.DESCRIPTOR
        assert stream.output_type.fields_by_name[kind.NAME].message_type == reply.DESCRIPTOR


def test_every_method_of_our_service_is_of_a_role_or_written_out() -> None:
    of_roles = [name for kind in SERVICE_ROLES for name in (kind.METHOD, kind.STREAM) if name]
    written_out = [method.name for method in INFERENCE.methods if method.name in vars(InferenceServicer)]
    assert sorted(of_roles + written_out) == sorted(method.name for method in INFERENCE.methods)


def test_a_role_is_registered_in_one_place_of_the_server() -> None:
    """All that the server has of a role outside of its own file is its class in the table."""
    sources = Path(ancestral_server.__file__).parent
    table = sources / "rpc/roles/__init__.py"
    for kind in SERVICE_ROLES:
        imports = f"from {kind.__module__} import "
        users = {path for path in sources.rglob("*.py") if imports in path.read_text()}
        assert users == {table}


@pytest.mark.parametrize("kind", SERVICE_ROLES)
def test_a_role_says_what_it_needs(kind: type[ServiceRole[Any, Any]]) -> None:
    assert Needs() != kind.NEEDS
