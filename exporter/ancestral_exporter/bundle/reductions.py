"""Sums and means that add in an order which depends on nothing but their length.

onnxruntime's ReduceSum and ReduceMean divide their work by the size of the batch and by where in memory an image lies,
so the last bits of an image's answer change with its company. A matrix product with a constant row does not, where
each image has a product of its own: it adds in the same order whatever lies beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_REDUCTIONS = ("ReduceSum", "ReduceMean")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def fix_order(model: onnx.ModelProto) -> int:
    """Put matrix products in the place of a graph's float reductions, in place; returns how many there were.

    Sums of integers stay, being exact in any order. Raises ValueError for a reduction of other axes than the first
    ones after the batch: flatten what is summed, or write it as a product. Then the model stays as it was.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    replaced = 0
    for node in model.graph.node:
        known = node.op_type in _REDUCTIONS and node.input[0] in types
        if node.op_type not in _REDUCTIONS or (known and types[node.input[0]].elem_type not in _FLOATS):
            nodes.append(node)
            continue
        if not known or len(node.input) < 2 or node.input[1] not in constants:
            raise ValueError(f"{node.name}: {node.op_type} of unknown shape or axes has no fixed order")
        sizes = [axis.dim_value for axis in types[node.input[0]].shape.dim]  # 0 for the batch
        axes = sorted(int(axis) % len(sizes) for axis in numpy_helper.to_array(constants[node.input[1]]))
        if axes != list(range(1, len(axes) + 1)) or 0 in sizes[1:]:
            raise ValueError(f"{node.name}: {node.op_type} of {sizes} over the axes {axes} has no fixed order")
        keep = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        reduced, rest = math.prod(sizes[1 : len(axes) + 1]), sizes[len(axes) + 1 :]
        weight = 1 / reduced if node.op_type == "ReduceMean" else 1
        dtype = helper.tensor_dtype_to_np_dtype(types[node.input[0]].elem_type)
        name = f"{node.output[0]}_in_order"
        added += [
            numpy_helper.from_array(np.array([-1, reduced, math.prod(rest)], np.int64), f"{name}_from"),
            numpy_helper.from_array(np.full((1, reduced), weight, dtype), f"{name}_weights"),
            numpy_helper.from_array(np.array([-1, *([1] * len(axes) if keep else []), *rest], np.int64), f"{name}_to"),
        ]
        nodes += [
            helper.make_node("Reshape", [node.input[0], f"{name}_from"], [f"{name}_flat"], name=f"{name}_flatten"),
            helper.make_node("MatMul", [f"{name}_weights", f"{name}_flat"], [f"{name}_sum"], name=f"{name}_add"),
            helper.make_node("Reshape", [f"{name}_sum", f"{name}_to"], node.output, name=f"{name}_shape"),
        ]
        replaced += 1
    if replaced:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(added)
        used = set(operands(nodes))
        kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    return replaced


def operands(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """What the nodes read, and those of their bodies."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from operands(attribute.g.node)
