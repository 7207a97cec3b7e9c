"""The row graph of a gated PixelCNN: one run paints one image row for every sample of a batch.

    states (rows above) ─> vertical stack, whole width at once ─> links ─> Scan over the columns: horizontal stack
                             └─> next states                                and what `row_graph` has

It does by hand what no tracer does: of each vertical layer's input it takes the row that the layer's window looks up
at, and gives the newest one, to be taken when it lies as far above (`StateSpec.rows_back`); and inside the Scan it
carries one pixel of each horizontal layer's input (Ramachandran et al. 2017, section 2).

Signal and switch of a gate are two products, which onnxruntime fuses with their activations, and links and residuals
are the products' addends.

Letters: B batch, H, W, C image axes, D channels, F features per pixel, R rows in the first window, d a row dilation.
"""

from __future__ import annotations

import numpy as np
import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.models import row_graph
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.graph_builder import GraphBuilder
from ancestral_exporter.models.pixelcnn_weights import LayerWeights, NetWeights
from ancestral_exporter.models.row_graph import Array, Pixel, RowGraph


def role(image: ImageShape, net: NetWeights, file: str) -> bundle_pb2.Role:
    """The manifest entry of the graph that `build` makes."""
    return row_graph.role(image, _states(image, net), file, labelled=net.label_count > 0)


def build(image: ImageShape, net: NetWeights) -> onnx.ModelProto:
    """The row graph of that net."""
    return _Rows(image, net).build()


def _states(image: ImageShape, net: NetWeights) -> list[bundle_pb2.StateSpec]:
    """The last R rows of features; and of each later vertical layer's input the row that lies d, the row dilation,
    above.
    """
    first, *later = net.vertical
    shape = [image.width, net.channels]
    above = (row_graph.state(f"above_{i}", shape, layer.dilation[0]) for i, layer in enumerate(later, start=1))
    return [row_graph.rows_state(image, net.head, first.taps[0]), *above]


class _Rows:
    """Holds what the steps of building share."""

    def __init__(self, image: ImageShape, net: NetWeights) -> None:
        self.net = net
        self.width = image.width
        self.row = RowGraph(image, net.head, _states(image, net), labelled=net.label_count > 0)
        self.graph = self.row.graph

    def build(self) -> onnx.ModelProto:
        net = self.net
        seen, next_states = self._vertical()
        links = self._links(seen)
        carried = {f"before_{i}": net.channels for i in range(1, len(net.horizontal))}
        scanned = {name: (value, net.channels) for name, value in links.items()}
        self.row.paint(len(net.horizontal[0].window), carried, scanned, self._pixel)
        return self.row.finish(next_states)

    def _vertical(self) -> tuple[list[str], dict[str, str]]:
        """Per layer its output row [B·W,D], and the states for the next row."""
        g, net, width = self.graph, self.net, self.width
        seen: list[str] = []
        next_states: dict[str, str] = {}
        for i, layer in enumerate(net.vertical):
            if i == 0:
                windows = self.row.pixel_windows(layer.taps)
            else:
                next_states[f"above_{i}"] = here = g.reshape(seen[-1], -1, width, net.channels)
                above = g.add("Concat", self.row.states[f"above_{i}"], here, axis=1)
                windows = self.row.windows(above, layer.inputs, layer.taps, layer.dilation[1])
            signal, switch = _halves(layer.window, 1)
            biases = _halves(layer.bias, 0)
            a = g.add("Gemm", windows, signal, biases[0])
            b = g.add("Gemm", windows, switch, biases[1])
            if self.row.label is not None:
                a, b = self._add_label(a, b, layer, self.row.label)
            gated = g.add("Mul", g.add("Tanh", a), g.add("Sigmoid", b))
            addend = [seen[-1]] if i else []
            seen.append(g.add("Gemm", gated, layer.project, *addend))
        return seen, next_states

    def _add_label(self, a: str, b: str, layer: LayerWeights, label: str) -> tuple[str, str]:
        """Add a label's vector to both halves [B·W,D] of a gate."""
        g, channels = self.graph, self.net.channels
        sums = []
        for value, vectors in zip((a, b), self._label_vectors(layer), strict=True):
            vector = g.add("Unsqueeze", g.add("Gather", vectors, label), np.array([1]))  # [B,1,D]
            summed = g.add("Add", g.reshape(value, -1, self.width, channels), vector)
            sums.append(g.reshape(summed, -1, channels))
        return sums[0], sums[1]

    def _label_vectors(self, layer: LayerWeights) -> list[Array]:
        assert layer.label is not None
        return _halves(layer.label, 1)

    def _links(self, seen: list[str]) -> dict[str, str]:
        """Per horizontal layer the addends [W,B,D] of signal and switch, by name: link, bias and label."""
        g, net, width = self.graph, self.net, self.width
        timed: dict[int, str] = {}
        links = {}
        for i, (layer, vertical) in enumerate(zip(net.horizontal, net.links, strict=True)):
            if vertical not in timed:
                timed[vertical] = g.reshape(self.row.timed(seen[vertical], net.channels), -1, net.channels)  # [W·B,D]
            assert layer.link is not None
            weights = _halves(layer.link, 1)
            biases = _halves(layer.bias, 0)
            for half, name in enumerate(("signal", "switch")):
                link = g.add("Gemm", timed[vertical], weights[half], biases[half])
                shape = g.add("Concat", np.array([width]), self.row.batch, np.array([-1]), axis=0)
                part = slice(half * net.channels, (half + 1) * net.channels)
                links[f"link_{name}_{i}"] = self.row.with_label(g.add("Reshape", link, shape), layer.label, part)
        return links

    def _pixel(self, body: GraphBuilder) -> Pixel:
        """The horizontal stack at one pixel; the next one will look back at its inputs."""
        carried: dict[str, str] = {}
        stream = ""
        for i, layer in enumerate(self.net.horizontal):
            if i == 0:
                window = "window"
            else:
                carried[f"before_{i}"] = stream
                window = body.add("Concat", f"before_{i}", stream, axis=1)
            signal, switch = _halves(layer.window, 1)
            a = body.add("Tanh", body.add("Gemm", window, signal, f"link_signal_{i}"))
            b = body.add("Sigmoid", body.add("Gemm", window, switch, f"link_switch_{i}"))
            addend = [stream] if i else []
            stream = body.add("Gemm", body.add("Mul", a, b), layer.project, *addend)
        return Pixel(stream, carried, {})


def _halves(array: Array, axis: int) -> list[Array]:
    """A gate's signal and switch."""
    return np.split(array, 2, axis=axis)
