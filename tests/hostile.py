"""Changes of the toy encoder's graph after which it asks for too much; for `toybundle.write(graph=...)`.

Each puts something between the total of an image and its answer; what the graph answers stays right, if it ever does.
And bundles that take a label, or keep their data elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import toybundle
from ancestral.v1 import bundle_pb2, tensor_pb2
from toybundle import constant

node = helper.make_node


def _before_the_answer(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    """Insert nodes that make `whole` of `total` [B,1]."""
    graph = model.graph
    for each in graph.node:
        each.input[:] = ["whole" if name == "total" else name for name in each.input]
    at = next(i for i, each in enumerate(graph.node) if "total" in each.output) + 1
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*kept[:at], *nodes, *kept[at:]])
    graph.initializer.extend(constants)


def endless(model: onnx.ModelProto) -> None:
    """A loop of 2^60 turns."""
    looped(model, 2**60)


def looped(model: onnx.ModelProto, turns: int) -> None:
    _before_the_answer(model, [_loop("turns")], [constant("turns", np.int64(turns)), constant("yes", np.array(True))])


def endless_if_white(model: onnx.ModelProto) -> None:
    """The same where the first byte of the batch's first image is 255, else no loop at all."""
    _before_the_answer(
        model,
        [
            node("Gather", ["image", "first_of"], ["corner"], axis=0),
            node("Flatten", ["corner"], ["corner_row"], axis=0),
            node("Slice", ["corner_row", "begin", "stop", "axis"], ["corner_byte"]),
            node("Cast", ["corner_byte"], ["corner_number"], to=TensorProto.INT64),
            node("Equal", ["corner_number", "white_byte"], ["is_white"]),
            node("Where", ["is_white", "many", "nil"], ["turns_"]),
            node("Reshape", ["turns_", "scalar"], ["turns"]),
            _loop("turns"),
        ],
        [
            constant("first_of", np.array([0])),
            constant("begin", np.array([0])),
            constant("stop", np.array([1])),
            constant("axis", np.array([1])),
            constant("white_byte", np.array([255])),
            constant("many", np.array([2**60])),
            constant("nil", np.array([0])),
            constant("scalar", np.array([], np.int64)),
            constant("yes", np.array(True)),
        ],
    )


def _loop(turns: str) -> onnx.NodeProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Identity", ["value"], ["same"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("value", TensorProto.FLOAT, None)],
        [info("go_on", TensorProto.BOOL, []), info("same", TensorProto.FLOAT, None)],
    )
    return node("Loop", [turns, "yes", "total"], ["whole"], body=body)


def one_long_operator(size: int) -> Callable[[onnx.ModelProto], None]:
    """A product of two square matrices of that size, which nothing can end."""

    def change(model: onnx.ModelProto) -> None:
        _before_the_answer(
            model,
            [
                node("ReduceSum", ["total"], ["everything"], keepdims=0),
                node("Expand", ["everything", "square"], ["matrix"]),
                node("MatMul", ["matrix", "matrix"], ["product"]),
                node("ReduceMax", ["product"], ["most_"], keepdims=0),
                node("Mul", ["most_", "naught_"], ["nothing_"]),
                node("Add", ["total", "nothing_"], ["whole"]),
            ],
            [constant("square", np.array([size, size])), constant("naught_", np.float32(0))],
        )

    return change


def of_gigabytes(gigabytes: int) -> Callable[[onnx.ModelProto], None]:
    """One tensor of so many GiB, whatever the batch."""

    def change(model: onnx.ModelProto) -> None:
        _before_the_answer(
            model,
            [
                node("ReduceSum", ["total"], ["everything"], keepdims=0),
                node("Expand", ["everything", "large"], ["huge"]),
                node("ReduceMax", ["huge"], ["most_"], keepdims=0),
                node("Mul", ["most_", "naught_"], ["nothing_"]),
                node("Add", ["total", "nothing_"], ["whole"]),
            ],
            [constant("large", np.array([gigabytes, 2**28])), constant("naught_", np.float32(0))],
        )

    return change


def dark_only(model: onnx.ModelProto) -> None:
    """A run fails if the first byte of any of its images is above 199."""
    _before_the_answer(
        model,
        [
            node("Reshape", ["image", "rows"], ["bytes"]),
            node("Slice", ["bytes", "begin", "stop", "axis"], ["corners"]),
            node("Cast", ["corners"], ["numbers"], to=TensorProto.INT64),
            node("Gather", ["table", "numbers"], ["nothing_"]),
            node("Add", ["total", "nothing_"], ["whole"]),
        ],
        [
            constant("rows", np.array([0, -1])),
            constant("begin", np.array([0])),
            constant("stop", np.array([1])),
            constant("axis", np.array([1])),
            constant("table", np.zeros(200, np.float32)),
        ],
    )


LABEL = toybundle.spec("label", bundle_pb2.MEANING_LABEL, tensor_pb2.DATA_TYPE_INT64)


def of_classes(classes: int) -> Callable[[onnx.ModelProto], None]:
    """A graph that takes a label, of so many."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["B"]))
        _before_the_answer(
            model,
            [
                node("Gather", ["table", "label"], ["nothing_"]),
                node("Reshape", ["nothing_", "rows"], ["column"]),
                node("Add", ["total", "column"], ["whole"]),
            ],
            [constant("rows", np.array([-1, 1])), constant("table", np.zeros(classes, np.float32))],
        )

    return change


def takes_labels(label_count: int) -> Callable[[bundle_pb2.Bundle], None]:
    """The manifest of that, which may say that there are others."""

    def change(manifest: bundle_pb2.Bundle) -> None:
        manifest.label_count = label_count
        for role in manifest.roles[:2]:
            role.inputs.append(LABEL)

    return change


def labelled_golden(*how: Any, golden: Any = toybundle.golden) -> toybundle.Arrays:
    """The recorded answers of that; `how` as of `toybundle.golden`."""
    labels = np.array([0, 1, 2])
    return {**golden(*how), "encode/in/label": labels, "score/in/label": labels}


def _field(number: int, content: bytes, length: bytes | None = None) -> bytes:
    """A length-delimited field of a protobuf message; `length` says it otherwise than usual."""
    return bytes([number << 3 | 2]) + (_varint(len(content)) if length is None else length) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


_KEY = _field(1, b"location")
# The ways to write an entry of `external_data` (onnx.proto) that says in which file a tensor's data are.
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "as usual": lambda path: _KEY + _field(2, path),
    "value first": lambda path: _field(2, path) + _KEY,
    "another key first": lambda path: _field(1, b"offset") + _KEY + _field(2, path),
    "another value first": lambda path: _KEY + _field(2, b"CARD.md") + _field(2, path),
    "long varints": lambda path: _field(1, b"location", b"\x88\x80\x80\x00") + _field(2, path),
    "unknown field between": lambda path: _KEY + b"\x18\x05" + _field(2, path),
    "group between": lambda path: _KEY + b"\x23\x08\x01\x24" + _field(2, path),
}


def elsewhere(model: onnx.ModelProto, path: str, encoding: str = "as usual") -> bytes:
    """The graph with the encoder's `scale` in a file of that path. The initializer comes in a second `graph`
    of the model, which protobuf merges into the first.
    """
    (scale,) = (each for each in model.graph.initializer if each.name == "scale")
    model.graph.initializer.remove(scale)
    scale.ClearField("raw_data")
    scale.data_location = TensorProto.EXTERNAL
    tensor = scale.SerializeToString() + _field(13, ENCODINGS[encoding](path.encode()))
    return bytes(model.SerializeToString()) + _field(7, _field(5, tensor))
