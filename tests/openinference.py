"""Requests of the Open Inference Protocol, and what became of them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ancestral.v1 import inference_service_pb2_grpc
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from waiting import PATIENCE
from wire import Array

Stub = oip_grpc.GRPCInferenceServiceStub
Native = inference_service_pb2_grpc.InferenceServiceStub

SHAPE = (8, 8, 1)
DATATYPES = {"UINT8": np.uint8, "BOOL": np.bool_, "INT64": np.int64, "FP32": np.float32}
NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
CONTENTS = {"UINT8": "uint_contents", "BOOL": "bool_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}


def some_images(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 3) -> Array:
    """[n,*shape] uint8; the same for the same seed, whoever asked before."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def ask(
    model: str, *, typed: bool = False, outputs: tuple[str, ...] = (), version: str = "", id: str = "", **inputs: Array
) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, array in inputs.items():
        datatype = NAMES[array.dtype]
        added = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(added.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def with_parameters(request: oip.ModelInferRequest, **parameters: Any) -> oip.ModelInferRequest:
    """The request with parameters: an int as int64_param, a float as double_param, and so on."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return request


def infer(stub: Stub, request: oip.ModelInferRequest) -> dict[str, Array]:
    return arrays(stub.ModelInfer(request, timeout=PATIENCE))


def arrays(reply: oip.ModelInferResponse) -> dict[str, Array]:
    """The outputs of a reply."""
    assert len(reply.outputs) == len(reply.raw_output_contents)
    return {
        output.name: np.frombuffer(data, DATATYPES[output.datatype]).reshape(output.shape)
        for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def violation(error: grpc.RpcError) -> error_details_pb2.BadRequest.FieldViolation:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0]
