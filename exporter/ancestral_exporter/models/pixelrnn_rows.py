"""The row graph of a PixelRNN: one run paints one image row for every sample of a batch.

    states (rows above) ─> what they add to this row's gates, whole width at once
                             └─> Scan over the columns: window, LSTMs, and what `row_graph` has ─> next states
                             of a diagonal net: Scan back over the finished row ─> next states of the other direction

Inside the first Scan the layers wait for each other, pixel after pixel; the second one, where each needs what it was
given and nothing of the others, takes a step of all layers at once.

Letters: B batch, H, W, C image axes, L layers, S size of a state, D = 2S channels between layers, R rows in the first
window.
"""

from __future__ import annotations

import numpy as np
import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.models import row_graph
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.graph_builder import FLOAT, GraphBuilder
from ancestral_exporter.models.pixelrnn_weights import NetWeights
from ancestral_exporter.models.recurrence_graph import lstm_step, lstm_step_of_sums
from ancestral_exporter.models.row_graph import Pixel, RowGraph


def role(image: ImageShape, net: NetWeights, file: str) -> bundle_pb2.Role:
    """The manifest entry of the graph that `build` makes."""
    return row_graph.role(image, _states(image, net), file, labelled=net.label_count > 0)


def build(image: ImageShape, net: NetWeights) -> onnx.ModelProto:
    """The row graph of that net."""
    return _Rows(image, net).build()


def _states(image: ImageShape, net: NetWeights) -> list[bundle_pb2.StateSpec]:
    """The last R rows of features, and what each layer's LSTMs made of the last row.

    Of a row LSTM that is its hidden states and cells, of a diagonal one the hidden states of both directions.
    """
    states = [row_graph.rows_state(image, net.head, net.window.taps[0])]
    for i, layer in enumerate(net.layers):
        names = (f"hidden_{i}", f"backward_{i}" if layer.backward else f"cell_{i}")
        states += [row_graph.state(name, [image.width, net.size]) for name in names]
    return states


class _Rows:
    """Holds what the steps of building share."""

    def __init__(self, image: ImageShape, net: NetWeights) -> None:
        self.net = net
        self.width = image.width
        self.row = RowGraph(image, net.head, _states(image, net), labelled=net.label_count > 0)
        self.graph = self.row.graph

    def build(self) -> onnx.ModelProto:
        net = self.net
        scanned = {"above": self.row.from_rows_above(net.window)}
        carried: dict[str, int] = {}
        for i, layer in enumerate(net.layers):
            scanned |= self._from_above(i)
            carried |= {f"beside_{i}": net.size, f"passing_{i}": net.size} if layer.backward else {}
            carried |= {} if layer.backward else {f"before_{i}": net.channels}
        kept = self.row.paint(len(net.window.before), carried, scanned, self._pixel)
        given = [kept.pop(f"given_{i}") for i, layer in enumerate(net.layers) if layer.backward]
        return self.row.finish(self.row.by_image(kept) | self._backward(given))

    def _from_above(self, i: int) -> dict[str, tuple[str, int]]:
        """What layer i's pixels take from the row above, [W,B,...], and channels, by name.

        switches, candidate: of what goes into the gates. other: the cells, or the direction over finished rows.
        """
        g, size, layer = self.graph, self.net.size, self.net.layers[i]
        direction = layer.forward
        window = self.row.windows(self.row.states[f"hidden_{i}"], size, (1, direction.columns))
        found = {}
        for name, part in (("switches", slice(0, 3 * size)), ("candidate", slice(3 * size, 4 * size))):
            sums = g.add("Gemm", window, direction.above[:, part], direction.bias[part])
            channels = part.stop - part.start
            found[f"{name}_{i}"] = self.row.with_label(self.row.timed(sums, channels), direction.label, part), channels
        other = self.row.states[f"backward_{i}" if layer.backward else f"cell_{i}"]
        return found | {f"other_{i}": (self.row.timed(other, size), size)}

    def _pixel(self, body: GraphBuilder) -> Pixel:
        """The window and all layers at one pixel.

        The row keeps what each layer was given, `given_{i}`, for the direction over finished rows.
        """
        size = self.net.size
        carried: dict[str, str] = {}
        kept: dict[str, str] = {}
        stream = body.add("Gemm", "window", self.net.window.before, "above")
        for i, layer in enumerate(self.net.layers):
            direction = layer.forward
            if direction.beside is None:
                window = body.add("Concat", f"before_{i}", stream, axis=1)
                weights, cell = direction.inputs, f"other_{i}"
            else:
                window = body.add("Concat", stream, f"beside_{i}", axis=1)
                weights, cell = np.concatenate([direction.inputs, direction.beside]), f"passing_{i}"
            switches = body.add("Sigmoid", body.add("Gemm", window, weights[:, : 3 * size], f"switches_{i}"))
            candidate = body.add("Tanh", body.add("Gemm", window, weights[:, 3 * size :], f"candidate_{i}"))
            hidden, cell = lstm_step(body, switches, candidate, cell)
            kept[f"hidden_{i}"] = hidden
            if direction.beside is None:
                carried[f"before_{i}"] = stream
                kept[f"cell_{i}"] = cell
                seen = hidden
            else:
                carried |= {f"beside_{i}": hidden, f"passing_{i}": cell}
                kept[f"given_{i}"] = stream
                seen = body.add("Add", hidden, f"other_{i}")
            stream = body.add("Gemm", seen, layer.project, stream)
        return Pixel(stream, carried, kept)

    def _backward(self, given: list[str]) -> dict[str, str]:
        """Next states `backward_{i}` [B,W,S], by the direction from the right over the finished row.

        given: to each of the layers that have it, [W,B,D].
        """
        g, net, width, batch = self.graph, self.net, self.width, self.row.batch
        directions = {i: layer.backward for i, layer in enumerate(net.layers) if layer.backward}
        if not directions:
            return {}
        count, size = len(directions), net.size
        body = GraphBuilder("back", outer=g)
        hidden = body.input("hidden", FLOAT, ["batch", count * size])
        cell = body.input("cell", FLOAT, ["batch", count, size])
        # A product for each layer: onnxruntime rounds a stacked one otherwise for a batch of one than for more.
        by_layer = [hidden] if count == 1 else body.add_many("Split", count, hidden, axis=1, num_outputs=count)
        scanned: list[str] = []
        totals: list[str] = []
        for (i, direction), value in zip(directions.items(), given, strict=True):
            assert direction.beside is not None
            above = g.reshape(self.row.timed(self.row.states[f"backward_{i}"], size), -1, size)  # [W·B,S]
            total = g.add("Gemm", above, direction.above, direction.bias)
            total = g.add("Gemm", g.reshape(value, -1, net.channels), direction.inputs, total)
            shape = g.add("Concat", np.array([width]), batch, np.array([4 * size]), axis=0)
            scanned.append(self.row.with_label(g.add("Reshape", total, shape), direction.label))
            step = body.input(f"sums_{i}", FLOAT, ["batch", 4 * size])
            totals.append(body.add("Gemm", by_layer[len(totals)], direction.beside, step))
        together = body.reshape(body.add("Concat", *totals, axis=1), -1, count, 4 * size)
        next_hidden, next_cell = lstm_step_of_sums(body, together, cell, size)
        flat = body.reshape(next_hidden, -1, count * size)
        body.output("next_hidden", flat, FLOAT, ["batch", count * size])
        body.output("next_cell", next_cell, FLOAT, ["batch", count, size])
        body.output("state", flat, FLOAT, ["batch", count * size])
        results = g.add_many(
            "Scan",
            3,
            self.row.zeros(count * size),
            self.row.zeros(count, size),
            *scanned,
            body=body.graph(),
            num_scan_inputs=count,
            scan_input_directions=[1] * count,
            scan_output_directions=[1],
        )
        states = g.add("Transpose", results[2], perm=[1, 0, 2])  # [B,W,L·S]
        parts = [states] if count == 1 else g.add_many("Split", count, states, axis=2, num_outputs=count)
        return {f"backward_{i}": part for i, part in zip(directions, parts, strict=True)}
