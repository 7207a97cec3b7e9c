"""What is put around a foreign graph: bytes in front, bytes or plain rows behind, and a batch axis that is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from ancestral.text import one_line
from ancestral_exporter.bundle.reductions import fix_order
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.foreign.layout import Layout
from ancestral_exporter.foreign.scale import Scale

# What our own graphs are exported with.
_OPSET = 20
# Below it, operators of the parts that are put around differ; such a file must be converted.
_LEAST_OPSET = 13
_BATCH = "batch"
_USER = "user/"


@dataclass
class Chain:
    """Operators one after another, on one tensor."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op: str, *operands: Array, **attributes: Any) -> Chain:
        """Apply an operator to what is there, with constants as its further inputs."""
        output = f"{self.name}/around_{len(self.nodes)}"
        source = self.nodes[-1].output[0] if self.nodes else self.name
        names = [f"{output}_{i}" for i in range(len(operands))]
        self.constants += [numpy_helper.from_array(value, name) for value, name in zip(operands, names, strict=True)]
        self.nodes.append(helper.make_node(op, [source, *names], [output], name=output, **attributes))
        return self

    def end(self, name: str) -> Chain:
        """Let what comes out be called so."""
        self.nodes.append(helper.make_node("Identity", [self.nodes[-1].output[0] if self.nodes else self.name], [name]))
        return self


@dataclass(frozen=True)
class Wanted:
    """An output of a role: of which output of the file, of which shape per image, and what lies in between.

    An image [H,W,C] is uint8, a row [K] float32.
    """

    output: str
    shape: tuple[int, ...]
    chain: Chain


def image_in(layout: Layout, scale: Scale | None, dtype: np.dtype[np.generic], *, reverse: bool) -> Chain:
    """From image [N,H,W,C] uint8 to what the file takes; the same as `Scale.floats` and `Layout.put`."""
    chain = Chain("image")
    if reverse:
        chain.add("Gather", np.arange(layout.image[2])[::-1].copy(), axis=3)
    if scale is not None:
        chain.add("Cast", to=TensorProto.FLOAT)
        chain.add("Sub", np.array(scale.shift, np.float32)).add("Div", np.array(scale.width, np.float32))
        chain.add("Cast", to=helper.np_dtype_to_tensor_dtype(dtype))
    if layout.first:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    return chain.add("Reshape", np.array([-1, *layout.shape]))


def latent_in(shape: Sequence[int], dtype: np.dtype[np.generic]) -> Chain:
    """From latent [N,Z] float32 to what the file takes."""
    chain = Chain("latent").add("Cast", to=helper.np_dtype_to_tensor_dtype(dtype))
    return chain.add("Reshape", np.array([-1, *shape]))


def image_out(name: str, layout: Layout, scale: Scale | None, *, reverse: bool) -> Chain:
    """From what the file gives to image [N,H,W,C] uint8; the same as `Layout.take` and `Scale.bytes`."""
    height, width, channels = layout.image
    chain = Chain(f"{_USER}{name}")
    if layout.first:
        chain.add("Reshape", np.array([-1, channels, height, width])).add("Transpose", perm=[0, 2, 3, 1])
    if scale is not None:
        chain.add("Cast", to=TensorProto.FLOAT)
        chain.add("Mul", np.array(scale.width, np.float32)).add("Add", np.array(scale.shift, np.float32))
        chain.add("Round").add("Clip", np.array(0, np.float32), np.array(255, np.float32))
        chain.add("Cast", to=TensorProto.UINT8)
    if reverse:
        chain.add("Gather", np.arange(channels)[::-1].copy(), axis=3)
    return chain.add("Reshape", np.array([-1, height, width, channels]))


def row_out(name: str, size: int, least: float | None) -> Chain:
    """From what the file gives to one row [N,size] float32 per image, the log of it where `least` bounds it below."""
    chain = Chain(f"{_USER}{name}").add("Cast", to=TensorProto.FLOAT)
    if least is not None:
        chain.add("Max", np.array(least, np.float32)).add("Log")
    return chain.add("Reshape", np.array([-1, size]))


def surround(
    model: onnx.ModelProto,
    before: Chain,
    shape: tuple[int, ...],
    wanted: Mapping[str, Wanted],
    answers: Mapping[str, Array],
    *,
    free: int | None,
) -> onnx.ModelProto:
    """The graph with `before` in front, and behind it what makes each output of the role, by name.

    shape: of one of the images or latents that `before` takes. `answers` are the file's outputs, of whose shapes its
    declared ones may know less. free: the fixed batch, if any.
    """
    model = _converted(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    (own,) = [value for value in graph.input if value.name not in constants]
    input_name = own.name
    element = own.type.tensor_type.elem_type
    graph.ClearField("input")
    graph.input.append(helper.make_tensor_value_info(input_name, element, [_BATCH, *_shape_before(before)]))
    graph.ClearField("value_info")
    if free is not None:
        _free_reshapes(graph, input_name, free)
    names = {part.output for part in wanted.values()}
    kept = [value for value in graph.output if value.name in names]
    graph.ClearField("output")
    for value in kept:
        of = value.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(value.name, of, [_BATCH, *answers[value.name].shape[1:]]))
    whole = compose.add_prefix(model, _USER)
    if before.name == "image":
        taken = helper.make_tensor_value_info("image", TensorProto.UINT8, [_BATCH, *shape])
    else:
        taken = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [_BATCH, *shape])
    pre = _part(before.end("around/in"), [taken], [_info(whole.graph.input[0], "around/in")], model)
    whole = compose.merge_models(pre, whole, io_map=[("around/in", whole.graph.input[0].name)])
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    results = []
    for name, part in wanted.items():
        nodes += part.chain.end(name).nodes
        weights += part.chain.constants
        dtype = TensorProto.UINT8 if len(part.shape) == 3 else TensorProto.FLOAT
        results.append(helper.make_tensor_value_info(name, dtype, [_BATCH, *part.shape]))
    whole.graph.node.extend(nodes)
    whole.graph.initializer.extend(weights)
    whole.graph.ClearField("output")
    whole.graph.output.extend(results)
    with suppress(ValueError):  # the card says whether an image's answers depend on its company
        fix_order(whole)
    onnx.checker.check_model(whole)
    return whole


def ends_in_softmax(model: onnx.ModelProto, output: str) -> bool:
    """Whether an output is a softmax, maybe in another shape or type."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    node = made_by.get(output)
    while node is not None and node.op_type in ("Identity", "Cast", "Reshape", "Flatten", "Squeeze"):
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def _shape_before(before: Chain) -> list[int]:
    """What the last Reshape of a chain makes, without the batch axis."""
    return [int(size) for size in numpy_helper.to_array(before.constants[-1])[1:]]


def _info(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _part(
    chain: Chain, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], model: onnx.ModelProto
) -> onnx.ModelProto:
    """A model of a chain, with the versions of another."""
    graph = helper.make_graph(chain.nodes, "around", inputs, outputs, initializer=chain.constants)
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the operators of opset 20, or of its own where it is recent and cannot be converted."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if version < _OPSET:
        try:
            copy = version_converter.convert_version(copy, _OPSET)
        except Exception as error:  # C++ raises what it likes
            if version < _LEAST_OPSET:
                line = one_line(error)
                raise ValueError(f"is of opset {version}, which cannot be converted to {_OPSET}: {line}") from error
    copy.ir_version = max(copy.ir_version, 8)
    # Before IR version 4 weights were inputs too.
    constants = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in constants]
    copy.graph.ClearField("input")
    copy.graph.input.extend(inputs)
    return copy


def _free_reshapes(graph: onnx.GraphProto, source: str, batch: int) -> None:
    """Where a tracer has written the fixed batch into the shape that images are brought into, let it follow.

    Whether that was right is what verifying at several batches finds.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    reached = {source}
    for node in graph.node:
        if not reached.intersection(node.input):
            continue
        reached.update(node.output)
        if node.op_type != "Reshape" or node.input[0] not in reached or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
        if shape.ndim != 1 or len(shape) == 0 or shape[0] != batch:
            continue
        # -1 is what is left over; where another axis is that already, 0 copies the axis of the input.
        freed = np.concatenate([np.array([0 if -1 in shape[1:] else -1], np.int64), shape[1:]])
        name = f"{node.output[0]}_freed"
        graph.initializer.append(numpy_helper.from_array(freed, name))
        node.input[1] = name
