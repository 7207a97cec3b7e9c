"""A classifier of a graph that scores images given their class, by Bayes' rule."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.reductions import operands
from ancestral_exporter.models.base import ClassifyGraph

_PREFIX = "by_class/"  # of the values that are added to those of the scoring graph


def by_class(graph: ClassifyGraph, score: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of `graph`, given that of `graph.score`: a Scan over the classes, which is what bounds its memory."""
    role = graph.score.roles[0]
    image, label, scores = (
        next(spec.name for spec in (*role.inputs, *role.outputs) if spec.meaning == meaning)
        for meaning in (bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_LABEL, bundle_pb2.MEANING_LOG_LIKELIHOOD)
    )
    (logits,) = (spec.name for spec in graph.role.outputs)
    nodes = _needed(score.graph, scores)
    used = set(operands(nodes))
    batch, one, classes, stacked, by_image, prior = (
        _PREFIX + name for name in ("batch", "one", "classes", "stacked", "by_image", "prior")
    )
    body = helper.make_graph(
        [helper.make_node("Expand", [one, batch], [label], name=f"{_PREFIX}label"), *nodes],
        "score",
        [helper.make_tensor_value_info(one, TensorProto.INT64, [])],
        [helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["batch"])],
    )
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Shape", [image], [batch], name=f"{_PREFIX}shape", start=0, end=1),
                helper.make_node("Scan", [classes], [stacked], name=f"{_PREFIX}scan", body=body, num_scan_inputs=1),
                helper.make_node("Transpose", [stacked], [by_image], name=f"{_PREFIX}transpose", perm=[1, 0]),
                helper.make_node("Add", [by_image, prior], [logits], name=f"{_PREFIX}add"),
            ],
            "classify",
            [value for value in score.graph.input if value.name == image],
            [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", graph.labels])],
            initializer=[
                *(tensor for tensor in score.graph.initializer if tensor.name in used),
                numpy_helper.from_array(np.arange(graph.labels), classes),
                numpy_helper.from_array(np.array([-math.log(graph.labels)], np.float32), prior),
            ],
        ),
        opset_imports=score.opset_import,
        ir_version=score.ir_version,
        producer_name="ancestral-exporter",
    )


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in their order."""
    wanted = {output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(operands([node]))
    return kept[::-1]
