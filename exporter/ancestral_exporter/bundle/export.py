"""Writes the ONNX graphs of a model, one file each with its weights inside."""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.classify import by_class
from ancestral_exporter.bundle.reductions import fix_order
from ancestral_exporter.models.base import ClassifyGraph, ForeignGraph, Graph, OneShotGraph, RasterGraph
from ancestral_exporter.models.recurrence_graph import expand

# Bytes of a graph with its weights inside; protobuf writes no message of 2 GiB, and the weights are not all of it.
_MOST_INSIDE = 2**30


def export_graph(graph: Graph, folder: Path) -> None:
    """Write `folder / graph.file`, and beside it large weights.

    A graph that is made of another of the bundle finds that in the folder, and so comes after it.
    """
    model = _model(graph, folder)
    if model.ByteSize() > _MOST_INSIDE:
        weights = f"{graph.file}.weights"
        onnx.save_model(model, str(folder / graph.file), save_as_external_data=True, location=weights)
    else:
        onnx.save_model(model, str(folder / graph.file))


def graph_roles(graph: Graph) -> list[bundle_pb2.Role]:
    return list(graph.roles) if isinstance(graph, OneShotGraph) else [graph.role]


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


def _model(graph: Graph, folder: Path) -> onnx.ModelProto:
    if isinstance(graph, RasterGraph):
        return graph.build()
    if isinstance(graph, ClassifyGraph):
        return by_class(graph, onnx.load(folder / graph.score.file))
    return graph.model if isinstance(graph, ForeignGraph) else _trace(graph)


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


def _trace(graph: OneShotGraph) -> onnx.ModelProto:
    inputs = graph.roles[0].inputs
    # Two images: a batch of one would be taken for a constant.
    example: tuple[Tensor, ...] = tuple(
        torch.from_numpy(np.zeros((2, *spec.shape), DTYPES[spec.dtype])) for spec in inputs
    )
    batch = torch.export.Dim("batch")
    with _quiet(), _one_registry(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            example,
            dynamo=True,
            opset_version=20,
            input_names=input_names(graph),
            output_names=output_names(graph),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    without_traces(model)
    expand(model)
    try:
        fix_order(model)
    except ValueError:
        if graph.in_order:
            raise
    onnx.checker.check_model(model)
    return model


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
def _one_registry() -> Iterator[None]:
    """Keep the exporter's table of operators from one graph to the next.

    torch.onnx (2.13) makes it anew for each graph, from the source text of 500 functions: a third of the time of an
    export. The table is not public; where a later version has it elsewhere, it is made each time.
    """
    try:
        registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        made = vars(registry)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return
    registry.from_torchlib = staticmethod(_kept(made.__get__(None, registry)))
    try:
        yield
    finally:
        registry.from_torchlib = made


_kept: Callable[[Any], Any] = functools.cache(functools.cache)
