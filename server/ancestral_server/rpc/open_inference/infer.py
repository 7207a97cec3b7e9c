"""ModelInfer: a request to a call of the role's tensors, and the tensors that come of it to a reply.

Letters: N rows of a request.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.open_inference import parameters, tensors
from ancestral_server.rpc.roles.base import Role
from ancestral_server.rpc.roles.signature import Outputs
from ancestral_server.rpc.roles.tensors import TensorCall
from ancestral_server.runtime.session import Array
from inference import open_inference_service_pb2 as oip

MAX_ID = 256


class InferCall(NamedTuple):
    """A request that was read and found good."""

    role: Role
    outputs: Outputs
    tensors: TensorCall


def read(role: Role, request: oip.ModelInferRequest) -> InferCall:
    """Check every field but those that name the model, which were read to find the role."""
    known = role.signature
    asked = parameters.read(request.parameters)
    label = 0
    if known.draws:
        label = convert.sample_label("parameters[label]", asked.label, known.classes)
    elif asked.temperature is not None or asked.label is not None:
        name = "label" if asked.temperature is None else "temperature"
        raise InvalidArgument(f"parameters[{name}]", f"is set, must be unset: {role.name} takes no such parameter")
    raw = request.raw_input_contents[:]
    inputs = tensors.described(request, known, role.most_rows, raw=bool(raw))
    outputs = tensors.wanted(request, known, seeded=asked.seed is not None)
    rows = inputs[0][1][0]
    convert.reply_size("inputs[0].shape", rows, outputs.bytes, role.room)
    seed = asked.seed
    if seed is None:
        seed = secrets.randbelow(convert.MAX_SEED + 1) if known.draws else 0
    call = TensorCall(
        rows,
        tensors.elements(inputs, request, raw),
        outputs.meanings,
        seed,
        asked.priority,
        asked.timeout_seconds,
        1.0 if asked.temperature is None else asked.temperature,
        label,
    )
    return InferCall(role, outputs, call)


def reply(call: InferCall, request: oip.ModelInferRequest, outputs: Sequence[Array]) -> oip.ModelInferResponse:
    """The reply to a request: its outputs, in order."""
    reply = oip.ModelInferResponse(
        model_name=request.model_name, model_version=str(call.role.served.version), id=request.id
    )
    rows = call.tensors.rows
    described, contents = reply.outputs, reply.raw_output_contents
    for port, array in zip(call.outputs.ports, outputs, strict=True):
        described.append(port.described)
        if rows != 1:
            described[-1].shape[0] = rows
        contents.append(array.tobytes())
    if call.role.signature.draws:
        reply.parameters["seed"].int64_param = call.tensors.seed
    return reply
