"""The weights of a gated PixelCNN, out of the row graph that pixelcnn_rows.py builds.

So a bundle that is there already can be given a kernel, and a fresh one is given it by the same way. The graph names no
weight; but its products stand in the order in which the net needs them, each with its matrix and its addend, and that
order is all that is read here. What was read wrongly would paint other images than the recorded ones.

Letters as in pixelcnn_rows.py; P numbers that a level is drawn by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ancestral.bundle.rules import rows_back
from ancestral.v1 import bundle_pb2
from ancestral_exporter.errors import ExporterError
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.head import level_features
from ancestral_exporter.models.pixelcnn_weights import LayerWeights, NetWeights
from ancestral_exporter.models.row_graph import Array, HeadWeights
from ancestral_exporter.models.values import LogisticMixture


class NotCovered(ExporterError):
    """A role that the kernel cannot be made for: the message says what it has that the kernel does not do."""


# As row_graph.role has them: the kernel takes its parameters in this order.
_INPUTS = (
    bundle_pb2.MEANING_GIVEN,
    bundle_pb2.MEANING_KNOWN,
    bundle_pb2.MEANING_UNIFORMS,
    bundle_pb2.MEANING_TEMPERATURE,
    bundle_pb2.MEANING_LABEL,
)
_OUTPUTS = [bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_LOG_LIKELIHOOD]


def read_net(model: onnx.ModelProto, role: bundle_pb2.Role, image: ImageShape) -> NetWeights:
    """The net of a raster role, with the numbers of its head as its draw works with them: one logit for two levels.

    Raises NotCovered where the graph is no gated PixelCNN's.
    """
    inputs = [spec.meaning for spec in role.inputs]
    if inputs not in (list(_INPUTS), list(_INPUTS[:-1])) or [spec.meaning for spec in role.outputs] != _OUTPUTS:
        raise _foreign(role)
    try:
        return _Reading(model.graph, role, image).net()
    except (_Unlike, ValueError, IndexError, KeyError, StopIteration) as error:
        raise _foreign(role) from error


def _foreign(role: bundle_pb2.Role) -> NotCovered:
    return NotCovered(f"{role.graph} is not the row graph of a gated PixelCNN, which is all that the kernel covers")


class _Unlike(Exception):
    """The graph is of another kind."""


@dataclass(frozen=True)
class _Product:
    """A Gemm with a constant matrix: what it multiplies, the matrix, and its addend where that is a constant."""

    left: str
    matrix: Array
    addend: Array | None
    name: str


class _Reading:
    def __init__(self, graph: onnx.GraphProto, role: bundle_pb2.Role, image: ImageShape) -> None:
        self.role, self.image = role, image
        scans = [node for node in graph.node if node.op_type == "Scan"]
        if len(scans) != 1:
            raise _Unlike
        body = next(attribute.g for attribute in scans[0].attribute if attribute.name == "body")
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor) for part in (graph, body) for tensor in part.initializer
        }
        self.graph, self.body = graph, body
        self.makers = {name: node for node in graph.node for name in node.output}

    def net(self) -> NetWeights:
        image, states = self.image, self.role.states
        # Names that pixelcnn_rows.py alone gives: other families have rows and products, too.
        if [state.input for state in states] != ["rows", *(f"above_{i}" for i in range(1, len(states)))]:
            raise _Unlike
        rows, width, features = (int(size) for size in states[0].shape)
        outer, inner, indices = list(self._products(self.graph)), list(self._products(self.body)), list(self._windows())
        layers, horizontal_layers = len(states), (len(inner) - 2 * image.channels) // 3
        counts = (3 * layers + 2 * horizontal_layers, 3 * horizontal_layers + 2 * image.channels, layers)
        if (len(outer), len(inner), len(indices)) != counts or width != image.width or features % image.channels:
            raise _Unlike
        labels: Sequence[Array | None] = list(self._labels()) or [None] * (2 * (layers + horizontal_layers))
        if len(labels) != 2 * (layers + horizontal_layers):
            raise _Unlike

        vertical, made = [], {}
        for i, (state, index) in enumerate(zip(states, indices, strict=True)):
            *gates, project = outer[3 * i : 3 * i + 3]
            made[project.name] = i
            taps = (2, 3) if i else (rows, index.shape[1] // rows)
            apart = (rows_back(state), _apart(index, taps, width)) if i else (1, 1)
            vertical.append(_layer(taps, apart, gates, gates, project, labels[2 * i : 2 * i + 2]))
        horizontal, links = [], []
        for i in range(horizontal_layers):
            *gates, project = inner[3 * i : 3 * i + 3]
            linked = outer[3 * layers + 2 * i : 3 * layers + 2 * i + 2]
            links.append(made[self._origin(linked[0].left)])
            taps = (1, 2 if i else len(gates[0].matrix) // features)
            told = labels[2 * (layers + i) : 2 * (layers + i) + 2]
            layer = _layer(taps, (1, 1), gates, linked, project, told)
            horizontal.append(dataclasses.replace(layer, link=_joined([product.matrix for product in linked])))
        head = self._head(inner[3 * horizontal_layers :], horizontal_layers, features // image.channels)
        return NetWeights(vertical=vertical, horizontal=horizontal, links=links, head=head)

    def _head(self, products: Sequence[_Product], horizontal_layers: int, features: int) -> HeadWeights:
        """features: of one value."""
        hidden, first, *others = products
        levels = self.image.levels
        if features not in (1, levels + 1):
            raise _Unlike
        logits = [(first.matrix, _constant(first))]
        logits += [(product.matrix, _constant(product)) for product in others[1::2]]
        # Only the draw of a mixture of logistics has a distribution function in the Scan, twice for each value.
        curves = sum(node.op_type == "Sigmoid" for node in self.body.node) - horizontal_layers
        mixture = LogisticMixture(levels, len(logits[0][1]) // 3) if levels > 2 and curves else None
        numbers = 1 if levels == 2 else 3 * mixture.mixtures if mixture else levels
        if any(len(bias) != numbers for _, bias in logits):
            raise _Unlike
        return HeadWeights(
            feature_table=level_features(levels, one_hot=features > 1).numpy(),
            hidden=hidden.matrix,
            hidden_bias=_constant(hidden),
            earlier=[product.matrix for product in others[::2]],
            logits=logits,
            mixture=mixture,
        )

    def _products(self, graph: onnx.GraphProto) -> Iterator[_Product]:
        for node in graph.node:
            if node.op_type == "Gemm":
                left, right, *addend = node.input
                constant = self.constants.get(addend[0]) if addend else None
                yield _Product(left, self.constants[right], constant, node.output[0])

    def _windows(self) -> Iterator[Array]:
        """Of each vertical layer: of which row and column each tap of its window is, at each column: [W,taps]."""
        for node in self.graph.node:
            index = self.constants.get(node.input[1]) if node.op_type == "Gather" else None
            if index is not None and index.ndim == 2:
                yield index

    def _labels(self) -> Iterator[Array]:
        """The vectors [classes,D] of signal and switch of every layer in turn."""
        for node in self.graph.node:
            if node.op_type == "Gather" and node.input[1] == "label":
                yield self.constants[node.input[0]]

    def _origin(self, name: str) -> str:
        """The product that gave a value, which may have been given another shape since."""
        while (node := self.makers[name]).op_type in ("Reshape", "Transpose"):
            name = node.input[0]
        return name


def _layer(
    taps: tuple[int, int],
    apart: tuple[int, int],
    gates: Sequence[_Product],
    biased: Sequence[_Product],
    project: _Product,
    labels: Sequence[Array | None],
) -> LayerWeights:
    """A layer without its link, of two products each: those of the window, and those that have the gate's bias."""
    vectors = [vector for vector in labels if vector is not None]
    return LayerWeights(
        taps=taps,
        dilation=apart,
        window=_joined([product.matrix for product in gates]),
        bias=_joined([_constant(product) for product in biased]),
        project=project.matrix,
        label=_joined(vectors) if vectors else None,
    )


def _constant(product: _Product) -> Array:
    if product.addend is None:
        raise _Unlike
    return product.addend


def _apart(index: Array, taps: tuple[int, int], width: int) -> int:
    """How many columns lie between the taps of a window: its last one is so far right of the first column."""
    last = int(index.reshape(width, *taps)[0, 0, -1])
    return last if last < width else 1  # outside: an image of one column


def _joined(halves: Sequence[Array]) -> Array:
    """Signal and switch of a gate, side by side."""
    return np.concatenate(halves, axis=-1)
