"""What ModelInfer and ModelStreamInfer mean: a request to a call of the role's tensors, and the tensors that come of it
to replies.

Letters: N rows of a request.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.open_inference import names, parameters, tensors
from ancestral_server.rpc.roles import role_at
from ancestral_server.rpc.roles.base import Role
from ancestral_server.rpc.roles.signature import Outputs
from ancestral_server.rpc.roles.tensors import TensorCall
from ancestral_server.runtime.session import Array
from inference import open_inference_service_pb2 as oip

# Characters of a request's id, which every reply repeats. Ours have 32; 256 is a guess at the longest that is one.
MAX_ID = 256


class InferCall(NamedTuple):
    """A request that was read and found good."""

    role: Role
    outputs: Outputs
    tensors: TensorCall


def find(catalog: Catalog, request: oip.ModelInferRequest) -> tuple[ModelVersion, Role]:
    """Whom a request asks: the model, to be held in a `with` until the last reply is packed, and its role."""
    if len(request.id) > MAX_ID:
        raise InvalidArgument("id", f"has {len(request.id)} characters, must have at most {MAX_ID}")
    fields = ("model_name", "model_version")
    model, role = names.find(catalog, request.model_name, request.model_version, fields=fields)
    return model, role_at(model, role)


def read(role: Role, request: oip.ModelInferRequest, *, one_by_one: bool = False) -> InferCall:
    """Check every field but those that name the model, which were read to find the role. one_by_one: whether each row
    has a reply of its own.
    """
    known = role.signature
    asked = parameters.read(request.parameters)
    label = 0
    if known.draws:
        label = convert.sample_label("parameters[label]", asked.label, known.classes)
    elif asked.temperature is not None or asked.label is not None:
        name = "label" if asked.temperature is None else "temperature"
        _refuse(role, name)
    if asked.draws is not None and known.limit is None:
        _refuse(role, "draws")
    raw = request.raw_input_contents[:]
    inputs, rows = tensors.described(request, known, role.most_rows, raw=bool(raw))
    outputs = tensors.wanted(request, known, seeded=asked.seed is not None)
    convert.reply_size("inputs[0].shape", 1 if one_by_one else rows, outputs.bytes, role.room)
    draws = 1
    if asked.draws is not None and known.limit is not None:
        draws = known.limit.check("parameters[draws]", asked.draws, rows)
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
        draws,
    )
    return InferCall(role, outputs, call)


def _refuse(role: Role, parameter: str) -> NoReturn:
    raise InvalidArgument(f"parameters[{parameter}]", f"is set, must be unset: {role.name} takes no such parameter")


def reply(call: InferCall, request: oip.ModelInferRequest, outputs: Sequence[Array]) -> oip.ModelInferResponse:
    """A reply to a request: its outputs [N, ...] in order, or the same rows of each."""
    reply = oip.ModelInferResponse(
        model_name=request.model_name, model_version=str(call.role.served.version), id=request.id
    )
    rows = len(outputs[0])
    described, contents = reply.outputs, reply.raw_output_contents
    for port, array in zip(call.outputs.ports, outputs, strict=True):
        described.append(port.described)
        if rows != 1:
            described[-1].shape[0] = rows
        contents.append(array.tobytes())
    if call.role.signature.draws:
        reply.parameters["seed"].int64_param = call.tensors.seed
    return reply
