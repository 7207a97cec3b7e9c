"""Writes the ONNX graphs of a model, one file each with its weights inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.classify import by_class
from ancestral_exporter.bundle.tracing import trace
from ancestral_exporter.models.base import ClassifyGraph, ForeignGraph, Graph, OneShotGraph, RasterGraph

# Bytes of a graph with its weights inside; protobuf writes no message of 2 GiB, and the weights are not all of it.
_MOST_INSIDE = 2**30


def export_graphs(graphs: Sequence[Graph], folder: Path) -> None:
    """Write `folder / graph.file` of each graph, and beside it large weights.

    A graph that is made of another of the bundle finds that in the folder, and so comes after it.
    """
    traced = trace([graph for graph in graphs if isinstance(graph, OneShotGraph)])
    for graph in graphs:
        model = next(traced) if isinstance(graph, OneShotGraph) else _model(graph, folder)
        if model.ByteSize() > _MOST_INSIDE:
            weights = f"{graph.file}.weights"
            onnx.save_model(model, str(folder / graph.file), save_as_external_data=True, location=weights)
        else:
            onnx.save_model(model, str(folder / graph.file))


def graph_roles(graph: Graph) -> list[bundle_pb2.Role]:
    return list(graph.roles) if isinstance(graph, OneShotGraph) else [graph.role]


def _model(graph: RasterGraph | ClassifyGraph | ForeignGraph, folder: Path) -> onnx.ModelProto:
    if isinstance(graph, RasterGraph):
        return graph.build()
    if isinstance(graph, ClassifyGraph):
        return by_class(graph, onnx.load(folder / graph.score.file))
    return graph.model
