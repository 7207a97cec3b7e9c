"""Sparing a second trace of a program whose operators have all an ONNX form.

torch.onnx (2.13) has every program that was captured decomposed into simpler operators, by which it is traced again:
half of the time of an export. It decomposes none that it has a form of, so that where it knows all, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten
# Notes of the capture; torch.onnx removes them.
_ASSERTIONS = (aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg)


def spare_decomposition(program: torch.export.ExportedProgram, known: Callable[[Any], bool]) -> None:
    """Have `program.run_decompositions` do nothing where there is nothing to do. `known`: the operators with a form."""
    decompose = program.run_decompositions

    def where_needed(*arguments: Any) -> torch.export.ExportedProgram:
        for node in list(program.graph.nodes):
            if node.op == "call_function" and node.target in _FORMS:
                # In place: the program's signature knows its outputs by the names of their nodes.
                node.target, node.args, node.kwargs = _FORMS[node.target](node, *node.args, **node.kwargs)
        program.graph.lint()
        graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
        nodes = [node for graph in graphs for node in graph.nodes if node.op == "call_function"]
        return program if all(_stays(node.target, known) for node in nodes) else decompose(*arguments)

    vars(program)["run_decompositions"] = where_needed


def _stays(target: Any, known: Callable[[Any], bool]) -> bool:
    # What changes its inputs is another operator once it is decomposed.
    mutable = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
    return target in _ASSERTIONS or (known(target) and not mutable)


# What a call is instead: an operator, its arguments and its named arguments.
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def _to_dtype(node: Node, values: Node, dtype: torch.dtype, *_: Any, **__: Any) -> Call:
    return aten._to_copy.default, (values,), {"dtype": dtype}


def _to_device(node: Node, values: Node, device: Any, dtype: torch.dtype, *_: Any, **__: Any) -> Call:
    return _to_dtype(node, values, dtype)


def _conv_transpose2d(
    node: Node,
    values: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    output_padding: Any = (0, 0),
    groups: int = 1,
    dilation: Any = (1, 1),
) -> Call:
    settings = (stride, padding, dilation, True, output_padding, groups)
    return aten.convolution.default, (values, weight, bias, *settings), {}


def _rsub(node: Node, values: Node, other: float) -> Call:
    with node.graph.inserting_before(node):
        negative = node.graph.call_function(aten.neg.default, (values,))
    negative.meta |= values.meta
    return aten.add.Tensor, (negative, other), {}


def _detach(node: Node, values: Node) -> Call:
    return aten.detach.default, (values,), {}


def _movedim(node: Node, values: Node, source: int, destination: int) -> Call:
    axes = list(range(values.meta["val"].ndim))
    moved = axes.pop(source)
    axes.insert(destination % (len(axes) + 1), moved)
    return aten.permute.default, (values, axes), {}


# Operators without a form that are plainly another, or two: all that decomposing makes of them.
_FORMS: dict[Any, Callable[..., Call]] = {
    aten.to.dtype: _to_dtype,
    aten.to.device: _to_device,
    aten.conv_transpose2d.input: _conv_transpose2d,
    # Of a constant, as torch.tensor makes it.
    aten.detach_.default: _detach,
    aten.rsub.Scalar: _rsub,
    aten.movedim.int: _movedim,
}
