"""The row graph of a PixelRNN: one run paints one image row for every sample of a batch.

    given, known, uniforms (this row) ─────────────────────────────────────────┐
    states (rows above) ─> what they add to this row's gates, whole width at once
                             └─> Scan over the columns: window, LSTMs, head, draw ─> row, log_likelihood
                                                                  └─> next states
                             of a diagonal net: Scan back over the finished row ─> next states of the other direction

Fresh states are zeros, which are what lies outside the image, so samples at different rows may share a batch. Inside the
first Scan the layers wait for each other, pixel after pixel; the second one, which needs what the layers were given and
nothing of each other, takes a step of all layers at once.

Letters: B batch, H, W, C image axes, K levels, L layers, S size of a state, D = 2S channels between layers, F features
per pixel, R rows in the first window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.graph_builder import BOOL, FLOAT, INT64, UINT8, GraphBuilder
from ancestral_exporter.models.pixelcnn_draw import Draw, bytes_of_levels, levels_of_bytes, make_draw
from ancestral_exporter.models.pixelrnn_weights import Array, DirectionWeights, LayerWeights, NetWeights
from ancestral_exporter.models.quantise import COLDEST
from ancestral_exporter.models.recurrence_graph import lstm_step, lstm_step_of_sums


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
        states=[
            bundle_pb2.StateSpec(input=name, output=f"next_{name}", shape=shape)
            for name, shape in _states(image, net).items()
        ],
    )


def build(image: ImageShape, net: NetWeights) -> onnx.ModelProto:
    """The row graph of that net."""
    return _RowGraph(image, net).build()


def _states(image: ImageShape, net: NetWeights) -> dict[str, list[int]]:
    """Names and shapes without the batch: the last R rows of features, and what each layer's LSTMs made of the last row.

    Of a row LSTM that is its hidden states and cells, of a diagonal one the hidden states of both directions.
    """
    states = {"rows": [net.taps[0], image.width, net.pixel_features]}
    for i, layer in enumerate(net.layers):
        states[f"hidden_{i}"] = [image.width, net.size]
        states[f"{'backward' if layer.backward else 'cell'}_{i}"] = [image.width, net.size]
    return states


@dataclass(frozen=True)
class _FromAbove:
    """What a layer's pixels take from the row above, each [W,B,...]: of the gates' sums those of the switches [...,3S]
    and of the candidate [...,S]; then [...,S] the cells, or the hidden states of the direction over finished rows."""

    switches: str
    candidate: str
    other: str


class _RowGraph:
    """Holds what the steps of building share. Values for a Scan have time, the columns, first: [W,B,...]."""

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
        self.label = g.input("label", INT64, ["batch"]) if self.net.label_count else None
        shapes = _states(self.image, self.net)
        states = {name: g.input(name, FLOAT, ["batch", *shape]) for name, shape in shapes.items()}
        self.batch = g.add("Shape", given, start=0, end=1)  # [1]

        net = self.net
        window = self._windows(g.reshape(states["rows"], 0, -1, net.pixel_features), *net.taps, net.pixel_features)
        above = self._timed(g.add("Gemm", window, net.above, net.bias), net.channels)
        layers = [self._from_above(i, layer, states) for i, layer in enumerate(net.layers)]
        levels, features, logits, next_states = self._scan(given, known, uniforms, temperature, above, layers)

        painted = g.add("Where", known, given, bytes_of_levels(g, levels, self.image.levels))
        g.output("row", painted, UINT8, ["batch", width, channels])
        g.output("log_likelihood", self._log_likelihood(logits, levels, known), FLOAT, ["batch"])
        newest = g.add("Unsqueeze", features, np.array([1]))  # [B,1,W,F]
        kept = g.add("Slice", states["rows"], np.array([1]), np.array([np.iinfo(np.int64).max]), np.array([1]))
        next_states["rows"] = g.add("Concat", kept, newest, axis=1)
        next_states |= self._backward(states, next_states)
        for name, shape in shapes.items():
            g.output(f"next_{name}", next_states[name], FLOAT, ["batch", *shape])
        return g.model()

    def _windows(self, rows_in: str, rows: int, columns: int, channels: int) -> str:
        """[B,rows·W,channels] -> [B·W, rows·columns·channels]: what centred windows see, zeros outside the image."""
        g, width = self.graph, self.image.width
        if columns == 1 and rows == 1:
            return g.reshape(rows_in, -1, channels)
        padded = g.add("Concat", rows_in, self._zeros(1, channels), axis=1)
        at = np.arange(width)[:, None] + np.arange(columns) - columns // 2  # [W,columns]
        index = np.arange(rows)[:, None] * width + at[:, None]  # [W,rows,columns]
        index[np.broadcast_to(((at < 0) | (at >= width))[:, None], index.shape)] = rows * width
        gathered = g.add("Gather", padded, index.reshape(width, -1), axis=1)
        return g.reshape(gathered, -1, rows * columns * channels)

    def _timed(self, values: str, channels: int) -> str:
        """[B·W,channels] or [B,W,channels] -> [W,B,channels]."""
        g = self.graph
        return g.add("Transpose", g.reshape(values, -1, self.image.width, channels), perm=[1, 0, 2])

    def _from_above(self, i: int, layer: LayerWeights, states: dict[str, str]) -> _FromAbove:
        g, size, direction = self.graph, self.net.size, layer.forward
        window = self._windows(states[f"hidden_{i}"], 1, direction.columns, size)
        parts = []
        for part in (slice(0, 3 * size), slice(3 * size, None)):
            sums = g.add("Gemm", window, direction.above[:, part], direction.bias[part])
            parts.append(self._add_label(self._timed(sums, len(direction.bias[part])), direction, part))
        other = self._timed(states[f"backward_{i}" if layer.backward else f"cell_{i}"], size)
        return _FromAbove(*parts, other)

    def _add_label(self, sums: str, direction: DirectionWeights, part: slice) -> str:
        """Add a label's vector to sums [W,B,...] of some of a direction's gates."""
        if self.label is None or direction.label is None:
            return sums
        return self.graph.add("Add", sums, self.graph.add("Gather", direction.label[:, part], self.label))

    def _scan(
        self, given: str, known: str, uniforms: str, temperature: str, above: str, layers: list[_FromAbove]
    ) -> tuple[str, str, str, dict[str, str]]:
        """Paint the row, pixel by pixel: levels [B,W,C], their features [B,W,F] and logits [B,W,C,K], and next states.

        Among these is what each layer was given, `given_{i}` [W,B,D], for the direction over finished rows.
        """
        g, net, image = self.graph, self.net, self.image
        coldest = np.array(COLDEST, np.float32)
        inverse = g.add("Div", np.array(1, np.float32), g.add("Max", temperature, coldest))
        inverse = g.add("Unsqueeze", inverse, np.array([1]))  # [B,1]
        given_levels = levels_of_bytes(g, given, image.levels)

        body = GraphBuilder("pixel", outer=g)
        carried = {"window": self._zeros(len(net.before))}
        for i, layer in enumerate(net.layers):
            names = {f"beside_{i}": net.size, f"passing_{i}": net.size} if layer.backward else {f"before_{i}": net.channels}
            carried |= {name: self._zeros(channels) for name, channels in names.items()}
        for name in carried:
            body.input(name, FLOAT, ["batch", "width"])
        scanned = [above]
        body.input("above", FLOAT, ["batch", net.channels])
        inside = []
        for i, layer_above in enumerate(layers):
            scanned += [layer_above.switches, layer_above.candidate, layer_above.other]
            inside.append(_FromAbove(f"switches_{i}", f"candidate_{i}", f"other_{i}"))
            for name, size in ((f"switches_{i}", 3 * net.size), (f"candidate_{i}", net.size), (f"other_{i}", net.size)):
                body.input(name, FLOAT, ["batch", size])
        draw = make_draw(g, body, uniforms, known, given_levels, inverse, net.feature_table, image.channels)
        scanned += draw.scanned

        stream = body.add("Gemm", "window", net.before, "above")
        carried_on: dict[str, str] = {}
        kept: dict[str, str] = {}
        for i, layer in enumerate(net.layers):
            stream = self._layer(body, i, layer, inside[i], stream, carried_on, kept)
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
        for name, value in kept.items():
            body.output(f"kept_{name}", value, FLOAT, ["batch", "width"])

        results = g.add_many(
            "Scan",
            len(carried) + 1 + 2 * image.channels + len(kept),
            *carried.values(),
            *scanned,
            body=body.graph(),
            num_scan_inputs=len(scanned),
        )[len(carried) :]
        row_features = g.add("Transpose", results[0], perm=[1, 0, 2])  # [B,W,F]
        drawn, states = results[1 : 1 + 2 * image.channels], results[1 + 2 * image.channels :]
        row_levels = [draw.row_levels(g, result) for result in drawn[::2]]
        row_logits = [draw.row_logits(g, result) for result in drawn[1::2]]
        next_states = {
            name: value if name.startswith("given") else g.add("Transpose", value, perm=[1, 0, 2])
            for name, value in zip(kept, states, strict=True)
        }
        return g.add("Concat", *row_levels, axis=2), row_features, g.add("Concat", *row_logits, axis=2), next_states

    def _layer(
        self,
        body: GraphBuilder,
        i: int,
        layer: LayerWeights,
        above: _FromAbove,
        stream: str,
        carried_on: dict[str, str],
        kept: dict[str, str],
    ) -> str:
        """One layer at one pixel, [B,D] -> [B,D]; what the next pixel reads, and what the next row does, go into dicts."""
        size, direction = self.net.size, layer.forward
        if layer.backward is None:
            window = body.add("Concat", f"before_{i}", stream, axis=1)
            weights, cell = direction.inputs, above.other
        else:
            assert direction.beside is not None
            window = body.add("Concat", stream, f"beside_{i}", axis=1)
            weights, cell = np.concatenate([direction.inputs, direction.beside]), f"passing_{i}"
        switches = body.add("Sigmoid", body.add("Gemm", window, weights[:, : 3 * size], above.switches))
        candidate = body.add("Tanh", body.add("Gemm", window, weights[:, 3 * size :], above.candidate))
        hidden, cell = lstm_step(body, switches, candidate, cell)
        kept[f"hidden_{i}"] = seen = hidden
        if layer.backward is None:
            carried_on[f"before_{i}"] = stream
            kept[f"cell_{i}"] = cell
        else:
            carried_on |= {f"beside_{i}": hidden, f"passing_{i}": cell}
            kept[f"given_{i}"] = stream
            seen = body.add("Add", hidden, above.other)
        return body.add("Gemm", seen, layer.project, stream)

    def _backward(self, states: dict[str, str], found: dict[str, str]) -> dict[str, str]:
        """Next states `backward_{i}` [B,W,S]: the direction from the right over the row that is finished."""
        g, net, width = self.graph, self.net, self.image.width
        directions = {i: layer.backward for i, layer in enumerate(net.layers) if layer.backward}
        if not directions:
            return {}
        sums = []
        besides = []
        for i, direction in directions.items():
            assert direction.beside is not None
            besides.append(direction.beside)
            above = g.reshape(self._timed(states[f"backward_{i}"], net.size), -1, net.size)  # [W·B,S]
            total = g.add("Gemm", above, direction.above, direction.bias)
            total = g.add("Gemm", g.reshape(found[f"given_{i}"], -1, net.channels), direction.inputs, total)
            shape = g.add("Concat", np.array([width]), self.batch, np.array([4 * net.size]), axis=0)
            total = self._add_label(g.add("Reshape", total, shape), direction, slice(None))
            sums.append(g.add("Unsqueeze", total, np.array([1])))
        scanned = g.add("Concat", *sums, axis=1)  # [W,L,B,4S]

        body = GraphBuilder("back", outer=g)
        shape_of_state = [len(besides), "batch", net.size]
        hidden, cell = body.input("hidden", FLOAT, shape_of_state), body.input("cell", FLOAT, shape_of_state)
        step = body.input("sums", FLOAT, [len(besides), "batch", 4 * net.size])
        total = body.add("Add", step, body.add("MatMul", hidden, np.stack(besides)))
        next_hidden, next_cell = lstm_step_of_sums(body, total, cell, net.size)
        body.output("next_hidden", next_hidden, FLOAT, shape_of_state)
        body.output("next_cell", next_cell, FLOAT, shape_of_state)
        body.output("state", next_hidden, FLOAT, shape_of_state)
        fresh = g.add("Concat", np.array([len(besides)]), self.batch, np.array([net.size]), axis=0)
        zeros = g.add("ConstantOfShape", fresh)
        results = g.add_many(
            "Scan",
            3,
            zeros,
            zeros,
            scanned,
            body=body.graph(),
            num_scan_inputs=1,
            scan_input_directions=[1],
            scan_output_directions=[1],
        )
        by_layer = g.add("Transpose", results[2], perm=[1, 2, 0, 3])  # [L,B,W,S]
        return {
            f"backward_{i}": g.reshape(g.add("Gather", by_layer, np.array([place]), axis=0), -1, width, net.size)
            for place, i in enumerate(directions)
        }

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

    def _log_likelihood(self, logits: str, levels: str, known: str) -> str:
        """[B]: the log-probabilities of the free pixels of the row, summed.

        By a matrix product for each sample, which adds in one order whatever the batch is: see bundle.reductions.
        """
        g, size = self.graph, self.image.width * self.image.channels
        scores = g.add("LogSoftmax", logits, axis=3)
        index = g.add("Unsqueeze", levels, np.array([3]))
        scores = g.add("Squeeze", g.add("GatherElements", scores, index, axis=3), np.array([3]))
        free = g.add("Where", known, np.zeros(1, np.float32), scores)
        sums = g.add("MatMul", np.ones((1, size), np.float32), g.reshape(free, -1, size, 1))
        return g.reshape(sums, -1)

    def _zeros(self, *shape: int) -> str:
        """[B, *shape] of zeros."""
        g = self.graph
        return g.add("ConstantOfShape", g.add("Concat", self.batch, np.array(shape, np.int64), axis=0))
