"""The row graph of a gated PixelCNN: one run paints one image row for every sample of a batch.

    given, known, uniforms (this row) ──────────────────────────────┐
    states (rows above) ─> vertical stack, whole width at once      │
                             └─> links ─> Scan over the columns: horizontal stack, head, draw ─> row, log_likelihood
                                                                                             └─> next states

It does by hand what no tracer does: of each vertical layer's input it takes the row that the layer's window looks up
at, and gives the newest one, to be taken when it lies as far above (`StateSpec.rows_back`); and inside the Scan it
carries one pixel of each horizontal layer's input (Ramachandran et al. 2017, section 2). Fresh states are zeros, which
are the padding, so samples at different rows may share a batch.

Written for speed on the CPU: convolutions are matrix products over [B·W, taps·channels] (convolution kernels are slow
on an image of two rows), and the Scan's body, run W times a row, has as few nodes as possible, since at small batches
each node's overhead is the cost. So signal and switch of a gate are two products, which onnxruntime fuses with their
activations, links and residuals are the products' addends, and log-probabilities are left to one pass after the Scan.

Letters: B batch, H, W, C image axes, K levels, D channels, F features per pixel, R rows in the first window,
d a row dilation.
"""

from __future__ import annotations

import numpy as np
import onnx

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.graph_builder import BOOL, FLOAT, INT64, UINT8, GraphBuilder
from ancestral_exporter.models.pixelcnn_draw import Draw, bytes_of_levels, levels_of_bytes, make_draw
from ancestral_exporter.models.pixelcnn_weights import Array, LayerWeights, NetWeights
from ancestral_exporter.models.quantise import COLDEST


def role(image: ImageShape, net: NetWeights, file: str) -> bundle_pb2.Role:
    """The manifest entry of the graph that `build` makes."""
    spec = bundle_pb2.TensorSpec
    byte, integer, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_INT64, tensor_pb2.DATA_TYPE_FLOAT32
    row = [image.width, image.channels]
    inputs = [
        spec(name="given", meaning=bundle_pb2.MEANING_GIVEN, dtype=byte, shape=row),
        spec(name="known", meaning=bundle_pb2.MEANING_KNOWN, dtype=tensor_pb2.DATA_TYPE_BOOL, shape=row),
        spec(name="uniforms", meaning=bundle_pb2.MEANING_UNIFORMS, dtype=real, shape=row),
        spec(name="temperature", meaning=bundle_pb2.MEANING_TEMPERATURE, dtype=real),
    ]
    if net.label_count:
        inputs.append(spec(name="label", meaning=bundle_pb2.MEANING_LABEL, dtype=integer))
    return bundle_pb2.Role(
        name="sample",
        program=bundle_pb2.PROGRAM_RASTER,
        graph=file,
        inputs=inputs,
        outputs=[
            spec(name="row", meaning=bundle_pb2.MEANING_ROW, dtype=byte, shape=row),
            spec(name="log_likelihood", meaning=bundle_pb2.MEANING_LOG_LIKELIHOOD, dtype=real),
        ],
        states=_states(image, net),
    )


def build(image: ImageShape, net: NetWeights) -> onnx.ModelProto:
    """The row graph of that net."""
    return _RowGraph(image, net).build()


def _states(image: ImageShape, net: NetWeights) -> list[bundle_pb2.StateSpec]:
    """The last R rows of features, oldest first, all of which are read; and of each later vertical layer's input the
    row that lies d, the row dilation, above.
    """
    first, *later = net.vertical
    spec = bundle_pb2.StateSpec
    states = [spec(input="rows", output="next_rows", shape=[first.taps[0], image.width, net.pixel_features])]
    for i, layer in enumerate(later, start=1):
        d = layer.dilation[0]
        # 1 is what unset means.
        back = d if d > 1 else None
        shape = [image.width, net.channels]
        states.append(spec(input=f"above_{i}", output=f"next_above_{i}", shape=shape, rows_back=back))
    return states


class _RowGraph:
    """Holds what the steps of building share. Values named `_t` have time first: [W,B,...], for the Scan."""

    def __init__(self, image: ImageShape, net: NetWeights) -> None:
        self.image = image
        self.net = net
        self.graph = GraphBuilder("row")

    def build(self) -> onnx.ModelProto:
        g, (width, channels) = self.graph, (self.image.width, self.image.channels)
        given = g.input("given", UINT8, ["batch", width, channels])
        known = g.input("known", BOOL, ["batch", width, channels])
        uniforms = g.input("uniforms", FLOAT, ["batch", width, channels])
        temperature = g.input("temperature", FLOAT, ["batch"])
        label = g.input("label", INT64, ["batch"]) if self.net.label_count else None
        specs = _states(self.image, self.net)
        states = {spec.input: g.input(spec.input, FLOAT, ["batch", *spec.shape]) for spec in specs}

        self.batch = g.add("Shape", given, start=0, end=1)  # [1]
        seen, next_states = self._vertical(states, label)
        links = self._links(seen, label)
        levels, features, scores = self._scan(given, known, uniforms, temperature, links)

        painted = g.add("Where", known, given, bytes_of_levels(g, levels, self.image.levels))
        g.output("row", painted, UINT8, ["batch", width, channels])
        g.output("log_likelihood", self._log_likelihood(scores, known), FLOAT, ["batch"])
        newest = g.add("Unsqueeze", features, np.array([1]))  # [B,1,W,F]
        kept = g.add("Slice", states["rows"], np.array([1]), np.array([np.iinfo(np.int64).max]), np.array([1]))
        next_states["rows"] = g.add("Concat", kept, newest, axis=1)
        for spec in specs:
            g.output(spec.output, next_states[spec.input], FLOAT, ["batch", *spec.shape])
        return g.model()

    def _vertical(self, states: dict[str, str], label: str | None) -> tuple[list[str], dict[str, str]]:
        """Per layer its output row [B·W,D], and the states for the next row."""
        g, net, width = self.graph, self.net, self.image.width
        seen: list[str] = []
        next_states: dict[str, str] = {}
        for i, layer in enumerate(net.vertical):
            if i == 0:
                above = g.reshape(states["rows"], 0, layer.taps[0] * width, net.pixel_features)
            else:
                next_states[f"above_{i}"] = here = g.reshape(seen[-1], -1, width, net.channels)
                above = g.add("Concat", states[f"above_{i}"], here, axis=1)
            windows = self._windows(above, layer)
            signal, switch = _halves(layer.window, 1)
            biases = _halves(layer.bias, 0)
            a = g.add("Gemm", windows, signal, biases[0])
            b = g.add("Gemm", windows, switch, biases[1])
            if label is not None:
                a, b = self._add_label(a, b, layer, label)
            gated = g.add("Mul", g.add("Tanh", a), g.add("Sigmoid", b))
            addend = [seen[-1]] if layer.residual else []
            seen.append(g.add("Gemm", gated, layer.project, *addend))
        return seen, next_states

    def _windows(self, rows_in: str, layer: LayerWeights) -> str:
        """[B,rows·W,inputs] -> [B·W, rows·columns·inputs]: what each window sees, zeros outside the image."""
        g, width, channels = self.graph, self.image.width, layer.inputs
        (rows, columns), (_, dilation) = layer.taps, layer.dilation
        padded = g.add("Concat", rows_in, self._zeros(1, channels), axis=1)
        outside = rows * width
        index = np.full((width, rows, columns), outside, np.int64)
        for tap in range(columns):
            for column in range(width):
                at = column + (tap - columns // 2) * dilation
                if 0 <= at < width:
                    index[column, :, tap] = np.arange(rows) * width + at
        gathered = g.add("Gather", padded, index.reshape(width, rows * columns), axis=1)
        return g.reshape(gathered, -1, rows * columns * channels)

    def _add_label(self, a: str, b: str, layer: LayerWeights, label: str) -> tuple[str, str]:
        """Add a label's vector to both halves [B·W,D] of a gate."""
        g, width, channels = self.graph, self.image.width, self.net.channels
        sums = []
        for value, vectors in zip((a, b), self._label_vectors(layer), strict=True):
            vector = g.add("Unsqueeze", g.add("Gather", vectors, label), np.array([1]))  # [B,1,D]
            summed = g.add("Add", g.reshape(value, -1, width, channels), vector)
            sums.append(g.reshape(summed, -1, channels))
        return sums[0], sums[1]

    def _label_vectors(self, layer: LayerWeights) -> list[Array]:
        assert layer.label is not None
        return _halves(layer.label, 1)

    def _links(self, seen: list[str], label: str | None) -> list[tuple[str, str]]:
        """Per horizontal layer the addends [W,B,D] of signal and switch: link, bias and label."""
        g, net, width = self.graph, self.net, self.image.width
        timed: dict[int, str] = {}
        links = []
        for layer, vertical in zip(net.horizontal, net.links, strict=True):
            if vertical not in timed:
                rows = g.reshape(seen[vertical], -1, width, net.channels)
                timed[vertical] = g.reshape(g.add("Transpose", rows, perm=[1, 0, 2]), -1, net.channels)  # [W·B,D]
            assert layer.link is not None
            weights = _halves(layer.link, 1)
            biases = _halves(layer.bias, 0)
            halves = []
            for half in range(2):
                link = g.add("Gemm", timed[vertical], weights[half], biases[half])
                link = g.add("Reshape", link, g.add("Concat", np.array([width]), self.batch, np.array([-1]), axis=0))
                if label is not None:
                    link = g.add("Add", link, g.add("Gather", self._label_vectors(layer)[half], label))
                halves.append(link)
            links.append((halves[0], halves[1]))
        return links

    def _scan(
        self, given: str, known: str, uniforms: str, temperature: str, links: list[tuple[str, str]]
    ) -> tuple[str, str, str]:
        """Paint the row, pixel by pixel: levels [B,W,C], their features [B,W,F] and log-probabilities [B,W,C]."""
        g, net, image = self.graph, self.net, self.image
        coldest = np.array(COLDEST, np.float32)
        inverse = g.add("Div", np.array(1, np.float32), g.add("Max", temperature, coldest))
        inverse = g.add("Unsqueeze", inverse, np.array([1]))  # [B,1]
        given_levels = levels_of_bytes(g, given, image.levels)

        body = GraphBuilder("pixel", outer=g)
        carried = {"window": self._zeros(len(net.horizontal[0].window))}
        carried |= {f"before_{i}": self._zeros(net.channels) for i in range(1, len(net.horizontal))}
        for name in carried:
            body.input(name, FLOAT, ["batch", "width"])
        scanned: list[str] = []
        link_names = []
        for i, (a, b) in enumerate(links):
            scanned += [a, b]
            names = (f"link_signal_{i}", f"link_switch_{i}")
            link_names.append(names)
            for name in names:
                body.input(name, FLOAT, ["batch", net.channels])
        draw = make_draw(
            g, body, uniforms, known, given_levels, inverse, net.feature_table, image.channels, net.mixture
        )
        scanned += draw.scanned

        stream, carried_on = self._pixel(body, link_names)
        levels, features, logits = self._head(draw, stream)
        pixel = features[0] if len(features) == 1 else body.add("Concat", *features, axis=1)  # [B,F]
        shifted = body.add("Concat", "window", pixel, axis=1)
        last = np.array([np.iinfo(np.int64).max])
        carried_on["window"] = body.add("Slice", shifted, np.array([net.pixel_features]), last, np.array([1]))
        for name in carried:
            body.output(f"next_{name}", carried_on[name], FLOAT, ["batch", "width"])
        body.output("pixel", pixel, FLOAT, ["batch", net.pixel_features])
        for c in range(image.channels):
            draw.declare(c, levels[c])
            body.output(f"logits_{c}", logits[c], FLOAT, ["batch", "values"])

        results = g.add_many(
            "Scan",
            len(carried) + 1 + 2 * image.channels,
            *carried.values(),
            *scanned,
            body=body.graph(),
            num_scan_inputs=len(scanned),
        )[len(carried) :]
        row_features = g.add("Transpose", results[0], perm=[1, 0, 2])  # [B,W,F]
        row_levels = [draw.row_levels(g, result) for result in results[1::2]]
        numbers = g.add("Concat", *(draw.row_numbers(g, result) for result in results[2::2]), axis=2)
        drawn = g.add("Concat", *row_levels, axis=2)
        return drawn, row_features, draw.log_probabilities(g, numbers, drawn)

    def _pixel(self, body: GraphBuilder, links: list[tuple[str, str]]) -> tuple[str, dict[str, str]]:
        """The horizontal stack at one pixel: its output [B,D] and the inputs that the next pixel will look back at."""
        carried_on: dict[str, str] = {}
        stream = ""
        for i, layer in enumerate(self.net.horizontal):
            if i == 0:
                window = "window"
            else:
                carried_on[f"before_{i}"] = stream
                window = body.add("Concat", f"before_{i}", stream, axis=1)
            signal, switch = _halves(layer.window, 1)
            a = body.add("Tanh", body.add("Gemm", window, signal, links[i][0]))
            b = body.add("Sigmoid", body.add("Gemm", window, switch, links[i][1]))
            addend = [stream] if layer.residual else []
            stream = body.add("Gemm", body.add("Mul", a, b), layer.project, *addend)
        return stream, carried_on

    def _head(self, draw: Draw, stream: str) -> tuple[list[str], list[str], list[str]]:
        """Per channel of the pixel, which sees those before it: level, features [B,F/C] and logits."""
        body, net, channels = draw.body, self.net, self.image.channels
        hidden = body.add("Gemm", body.add("Relu", stream), net.hidden, net.hidden_bias)
        per_channel = [hidden]
        if channels > 1:
            per_channel = body.add_many("Split", channels, hidden, axis=1, num_outputs=channels)
        levels: list[str] = []
        features: list[str] = []
        logits: list[str] = []
        for c, activations in enumerate(per_channel):
            if c > 0:
                earlier = features[0] if c == 1 else body.add("Concat", *features, axis=1)
                activations = body.add("Gemm", earlier, net.earlier[c - 1], activations)
            weight, bias = draw.head(*net.logits[c])
            logits.append(body.add("Gemm", body.add("Relu", activations), weight, bias))
            level, feature = draw.draw(c, logits[c])
            levels.append(level)
            features.append(feature)
        return levels, features, logits

    def _log_likelihood(self, scores: str, known: str) -> str:
        """[B]: the log-probabilities [B,W,C] of the free pixels of the row, summed.

        By a matrix product for each sample, which adds in one order whatever the batch is: see bundle.reductions.
        """
        g, size = self.graph, self.image.width * self.image.channels
        free = g.add("Where", known, np.zeros(1, np.float32), scores)
        sums = g.add("MatMul", np.ones((1, size), np.float32), g.reshape(free, -1, size, 1))
        return g.reshape(sums, -1)

    def _zeros(self, *shape: int) -> str:
        """[B, *shape] of zeros."""
        g = self.graph
        return g.add("ConstantOfShape", g.add("Concat", self.batch, np.array(shape, np.int64), axis=0))


def _halves(array: Array, axis: int) -> list[Array]:
    """A gate's signal and switch."""
    return np.split(array, 2, axis=axis)
