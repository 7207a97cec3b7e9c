"""From PyTorch to ONNX: all graphs of a model in one trace, each cut out of it."""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
import torch._dynamo.config
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from ancestral.bundle.dtypes import DTYPES
from ancestral_exporter.bundle.decomposition import spare_decomposition
from ancestral_exporter.bundle.reductions import fix_order
from ancestral_exporter.models.base import OneShotGraph
from ancestral_exporter.models.recurrence_graph import expand

# The operators of ONNX 1.15, which onnxruntime has since 1.17.
_OPSET = 20


def input_names(graph: OneShotGraph) -> list[str]:
    """The graph's inputs, in the order of `module.forward`. Every run feeds all of them, so the roles must agree."""
    names = [spec.name for spec in graph.roles[0].inputs]
    for role in graph.roles:
        if [spec.name for spec in role.inputs] != names:
            raise ValueError(
                f"roles that share {graph.file} must have the same inputs, not {names} and those of {role.name}"
            )
    return names


def output_names(graph: OneShotGraph) -> list[str]:
    """The union of the roles' outputs, in order of first appearance, as `module.forward` returns them."""
    return list(dict.fromkeys(spec.name for role in graph.roles for spec in role.outputs))


def trace(graphs: Sequence[OneShotGraph]) -> Iterator[onnx.ModelProto]:
    """What each of the graphs is in ONNX, its inputs and outputs named as its roles name them.

    They are traced together: a trace takes a second before it comes to the net, and what several graphs have in common,
    as an encoder, is worked on once.
    """
    if not graphs:
        return
    together = _Together(graphs)
    batch = torch.export.Dim("batch")
    inputs = [f"input/{i}" for i in range(len(together.feeds))]
    outputs = [[f"output/{graph.file}/{name}" for name in output_names(graph)] for graph in graphs]
    # To remember the shapes that each operator gave costs a small net's export a quarter more than it saves.
    forgetful = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with _quiet(), _one_registry() as known, forgetful, torch.no_grad():
        captured = torch.export.export(
            together.eval(), (together.feeds,), dynamic_shapes=(tuple({0: batch} for _ in inputs),)
        )
        if known is not None:
            spare_decomposition(captured, known)
        program = torch.onnx.export(
            captured,
            dynamo=True,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=[name for names in outputs for name in names],
            verbose=False,
        )
    assert program is not None
    for graph, takes, names in zip(graphs, together.takes, outputs, strict=True):
        yield _cut(program.model, [inputs[i] for i in takes], names, graph)


class _Together(nn.Module):
    """The modules of several graphs as one, whose outputs are all of theirs.

    feeds: an example of each input; what graphs name, type and shape alike is one. takes: for each graph, where in
    `feeds` its inputs are.
    """

    def __init__(self, graphs: Sequence[OneShotGraph]) -> None:
        super().__init__()
        self.files = [graph.file for graph in graphs]
        self.parts = nn.ModuleList(graph.module for graph in graphs)
        self.counts = [len(output_names(graph)) for graph in graphs]
        known: dict[tuple[str, int, tuple[int, ...]], int] = {}
        self.takes = []
        for graph in graphs:
            input_names(graph)
            keys = [(spec.name, int(spec.dtype), tuple(spec.shape)) for spec in graph.roles[0].inputs]
            self.takes.append([known.setdefault(key, len(known)) for key in keys])
        # Two images: a batch of one would be taken for a constant.
        self.feeds = tuple(torch.from_numpy(np.zeros((2, *shape), DTYPES[dtype])) for _, dtype, shape in known)

    def forward(self, feeds: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for file, part, takes, count in zip(self.files, self.parts, self.takes, self.counts, strict=True):
            found = part(*(feeds[i] for i in takes))
            if isinstance(found, Tensor):  # of one output, not made a tuple
                found = (found,)
            if len(found) != count:
                raise ValueError(f"{file}: its module returns {len(found)} tensors, its roles name {count} outputs")
            outputs += found
        return tuple(outputs)


def _cut(model: onnx_ir.Model, inputs: list[str], outputs: list[str], graph: OneShotGraph) -> onnx.ModelProto:
    """What makes these outputs of these inputs, under the names that the graph's roles give them."""
    part = onnx_ir.convenience.extract(model.graph, inputs, outputs)
    cut = onnx_ir.Model(part, ir_version=model.ir_version, producer_name=model.producer_name)
    # An output that is that of another graph, too, was a copy of it.
    passes.IdentityEliminationPass()(cut)
    for values, names in ((part.inputs, input_names(graph)), (part.outputs, output_names(graph))):
        for value, name in zip(values, names, strict=True):
            value.name = name
    passes.NameFixPass()(cut)
    proto = onnx_ir.serde.serialize_model(cut)
    without_traces(proto)
    expand(proto)
    try:
        fix_order(proto)
    except ValueError:
        if graph.in_order:
            raise
    onnx.checker.check_model(proto)
    return proto


def without_traces(model: onnx.ModelProto) -> None:
    """Remove, in place, the notes of a tracer: stack traces with the paths of the machine that it ran on."""
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.ClearField("metadata_props")
    for weights in model.graph.initializer:
        weights.ClearField("metadata_props")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on optional packages and its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_registry() -> Iterator[Callable[[Any], bool] | None]:
    """Keep the exporter's table of operators from one trace to the next; gives which operators of torch it knows.

    torch.onnx (2.13) makes it anew for each, from the source text of 500 functions: a second. The table is not public;
    where a later version has it elsewhere, it is made each time, and None is given.
    """
    try:
        registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        made = vars(registry)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield None
        return
    registry.from_torchlib = staticmethod(_kept(made.__get__(None, registry)))
    try:
        yield registry.from_torchlib(opset_version=_OPSET).is_registered
    finally:
        registry.from_torchlib = made


_kept: Callable[[Any], Any] = functools.cache(functools.cache)
