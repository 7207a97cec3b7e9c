"""Inputs of a request to arrays, arrays to outputs of a reply; every check of the tensors that a caller sent.

Letters: N rows of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

import numpy as np

from ancestral.text import short
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.open_inference.parameters import refuse_other_ways
from ancestral_server.rpc.roles.signature import Outputs, Port, Signature
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array
from inference import open_inference_service_pb2 as oip

# In which field of InferTensorContents elements of a datatype come, and as what.
_CONTENTS: dict[str, tuple[str, type[np.generic]]] = {
    "BOOL": ("bool_contents", np.bool_),
    "UINT8": ("uint_contents", np.uint32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "FP32": ("fp32_contents", np.float32),
}


# Choices of outputs of a role that are remembered: clients of a kind make the same one in every request.
MOST_ASKED = 16

# A tensor of a request, [N, ...], as the request describes it.
Input: TypeAlias = "tuple[Port, tuple[int, ...]]"


def described(
    request: oip.ModelInferRequest, signature: Signature, limit: convert.Limit, *, raw: bool
) -> tuple[Sequence[Input], int]:
    """The inputs, in the order of the request, and their N, 1 <= N <= limit: the same for all, but that one row of what
    a request may leave out is that of every row.

    raw: whether the elements are in raw_input_contents.
    """
    inputs: dict[str, Input] = {}
    rows = 0
    for i, tensor in enumerate(request.inputs[:]):
        name = tensor.name
        port = signature.inputs.get(name)
        if port is None:
            _no_such(f"inputs[{i}].name", name, signature.inputs, "input")
        if name in inputs:
            raise InvalidArgument(f"inputs[{i}].name", f"is {name!r} a second time, each input is given once")
        if tensor.parameters:
            refuse_other_ways(f"inputs[{i}]", tensor.parameters)
        if tensor.datatype != port.datatype:
            field = f"inputs[{i}].datatype"
            raise InvalidArgument(field, f"is {short(tensor.datatype)!r}, must be {port.datatype!r}")
        shape = convert.axes(f"inputs[{i}].shape", tensor.shape)
        if not port.shape and len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]  # as the metadata has it, [N,1]
        convert.check_shape(f"inputs[{i}].shape", shape, port.shape, limit)
        if not port.optional:
            if rows and shape[0] != rows:
                field = f"inputs[{i}].shape"
                raise InvalidArgument(field, f"has N = {shape[0]}, must be {rows} as in the inputs before it")
            rows = shape[0]
        if raw and tensor.HasField("contents"):
            raise InvalidArgument(f"inputs[{i}].contents", "is set, must not be beside raw_input_contents")
        inputs[name] = port, shape
    found = list(inputs.values())
    if len(found) < len(signature.inputs):
        _check_missing(inputs, signature)
    for i, (port, shape) in enumerate(found):
        if port.optional and shape[0] not in (1, rows):
            raise InvalidArgument(
                f"inputs[{i}].shape", f"has N = {shape[0]}, must be 1, or {rows} as in the other inputs"
            )
    return found, rows


def _check_missing(inputs: Mapping[str, Input], signature: Signature) -> None:
    """Refuse what lacks an input that it needs; what it may leave out it has all of, or none."""
    known = signature.inputs
    needed = {name: port for name, port in known.items() if not port.optional}
    missing = next((name for name in needed if name not in inputs), None)
    if missing is not None:
        raise InvalidArgument("inputs", f"has no {missing!r}, must have {_names(needed)}")
    if len(inputs) > len(needed):
        missing = next(name for name in known if name not in inputs)
        together = {name: port for name, port in known.items() if port.optional}
        raise InvalidArgument("inputs", f"has no {missing!r}, must have all of {_names(together)} or none of them")


def elements(inputs: Sequence[Input], request: oip.ModelInferRequest, raw: Sequence[bytes]) -> dict[Meaning, Array]:
    """The arrays of a request by meaning, from `raw`, or where that is empty from its tensors themselves."""
    if raw and len(raw) != len(inputs):
        raise InvalidArgument(
            "raw_input_contents", f"holds {len(raw)} tensors, must hold {len(inputs)}, one for each of inputs"
        )
    arrays = {}
    for i, (port, shape) in enumerate(inputs):
        if raw:
            field = f"raw_input_contents[{i}]"
            array = convert.elements(field, raw[i], port.dtype, shape)
        else:
            field, array = _typed(f"inputs[{i}].contents", request.inputs[i], port, shape)
        if port.most is not None:
            _check_values(field, array, port.most)
        arrays[port.meaning] = array
    return arrays


def wanted(request: oip.ModelInferRequest, signature: Signature, *, seeded: bool) -> Outputs:
    """The outputs that a request asks for, in its order."""
    if not request.outputs:
        return signature.default_seeded if seeded else signature.default
    names: list[str] = []
    for i, output in enumerate(request.outputs[:]):
        if output.parameters:
            refuse_other_ways(f"outputs[{i}]", output.parameters)
        names.append(output.name)
    return signature.asked.get(tuple(names)) or _named(names, signature)


def _named(names: Sequence[str], signature: Signature) -> Outputs:
    """The outputs of these names, which others will ask for again."""
    known = signature.outputs
    ports: list[Port] = []
    for i, name in enumerate(names):
        port = known.get(name) or _no_such(f"outputs[{i}].name", name, known, "output")
        if port in ports:
            raise InvalidArgument(f"outputs[{i}].name", f"is {name!r} a second time, each output is given once")
        ports.append(port)
    outputs = Outputs.of(ports)
    if len(signature.asked) < MOST_ASKED:
        signature.asked[tuple(names)] = outputs
    return outputs


def _typed(
    field: str, tensor: oip.ModelInferRequest.InferInputTensor, port: Port, shape: tuple[int, ...]
) -> tuple[str, Array]:
    """The elements that a tensor carries itself, and the path of the field that they came in."""
    name, kind = _CONTENTS[port.datatype]
    for other, _ in tensor.contents.ListFields():
        if other.name != name:
            raise InvalidArgument(f"{field}.{other.name}", f"is set, elements of {port.datatype} come in {name}")
    where = f"{field}.{name}"
    values = np.array(getattr(tensor.contents, name), kind)
    expected = int(np.prod(shape))
    if len(values) != expected:
        raise InvalidArgument(where, f"holds {len(values)} elements, shape {list(shape)} needs {expected}")
    if port.datatype == "UINT8" and values.max() > 255:
        raise InvalidArgument(where, f"holds {values.max()}, must hold 0 to 255")
    return where, convert.elements(where, values.astype(port.dtype).tobytes(), port.dtype, shape)


def _check_values(field: str, array: Array, most: float) -> None:
    wrong = np.flatnonzero((array < 0) | (array > most))
    if wrong.size:
        raise InvalidArgument(field, f"holds {array[wrong[0]]} in row {wrong[0]}, must hold 0 to {most}")


def _no_such(field: str, name: str, ports: Mapping[str, Port], kind: str) -> NoReturn:
    raise InvalidArgument(field, f"is {short(name)!r}, there is no such {kind}; there are {_names(ports)}")


def _names(ports: Mapping[str, Port]) -> str:
    return ", ".join(map(repr, ports))
