"""What the row graphs of all autoregressive families have in common: one run paints an image row of every sample.

    given, known, uniforms (this row) ───────────────────────┐
    states (rows above) ─> a family's part, whole width at once
                             └─> Scan over the columns: a family's step, head, draw ─> row, log_likelihood, next states

Fresh states are zeros, which are what lies outside the image, so samples at different rows may share a batch.

Written for speed on the CPU: convolutions are matrix products over [B·W, taps·channels] (convolution kernels are slow
on an image of two rows), and the Scan's body, run W times a row, has as few nodes as possible, since at small batches
each node's overhead is the cost. So log-probabilities are left to one pass after the Scan.

Letters: B batch, H, W, C image axes, K levels, P numbers that a level is drawn by, D channels of what the head reads,
D' head channels, F features per pixel, R rows of pixels that a row looks back at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.draw import Draw, bytes_of_levels, levels_of_bytes, make_draw
from ancestral_exporter.models.graph_builder import BOOL, FLOAT, INT64, UINT8, GraphBuilder
from ancestral_exporter.models.quantise import COLDEST
from ancestral_exporter.models.values import LogisticMixture

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class HeadWeights:
    """How levels become features, and a net's last activations the distribution of a level: plain arrays, float32.

    logits: by image channel, the last layer and its bias, giving the P numbers of a level's distribution: K logits, or
    what `mixture` makes of them. earlier: what each channel but the first adds to its hidden activations for the
    features of those before it in the same pixel.
    """

    feature_table: Array  # [K,F/C]
    hidden: Array  # [D,C·D']
    hidden_bias: Array  # [C·D']
    earlier: Sequence[Array]  # [c·F/C,D'] for c = 1, 2, ...
    logits: Sequence[tuple[Array, Array]]  # [D',P], [P]
    mixture: LogisticMixture | None = None

    @property
    def channels(self) -> int:
        """D."""
        return len(self.hidden)

    @property
    def pixel_features(self) -> int:
        """F."""
        return len(self.logits) * int(self.feature_table.shape[1])

    def matrices(self) -> list[Array]:
        """What is multiplied by at every pixel."""
        return [self.hidden, *self.earlier, *(weight for weight, _ in self.logits)]


@dataclass(frozen=True)
class WindowWeights:
    """The first window, over the rows above and the pixels to the left; see `first_window`. taps: rows and columns of
    the former.
    """

    taps: tuple[int, int]
    above: Array  # [rows·columns·F,D]
    before: Array  # [pixels to the left·F,D]
    bias: Array  # [D]


def role(image: ImageShape, states: Sequence[bundle_pb2.StateSpec], file: str, *, labelled: bool) -> bundle_pb2.Role:
    """The manifest entry of a row graph."""
    spec = bundle_pb2.TensorSpec
    byte, integer, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_INT64, tensor_pb2.DATA_TYPE_FLOAT32
    row = [image.width, image.channels]
    inputs = [
        spec(name="given", meaning=bundle_pb2.MEANING_GIVEN, dtype=byte, shape=row),
        spec(name="known", meaning=bundle_pb2.MEANING_KNOWN, dtype=tensor_pb2.DATA_TYPE_BOOL, shape=row),
        spec(name="uniforms", meaning=bundle_pb2.MEANING_UNIFORMS, dtype=real, shape=row),
        spec(name="temperature", meaning=bundle_pb2.MEANING_TEMPERATURE, dtype=real),
    ]
    if labelled:
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
        states=states,
    )


def state(name: str, shape: Sequence[int], rows_back: int = 1) -> bundle_pb2.StateSpec:
    """A state that is read so many rows further down."""
    back = rows_back if rows_back > 1 else None  # 1 is what unset means
    return bundle_pb2.StateSpec(input=name, output=f"next_{name}", shape=shape, rows_back=back)


def rows_state(image: ImageShape, head: HeadWeights, rows: int) -> bundle_pb2.StateSpec:
    """The features of the last R rows of pixels, oldest first, all of which are read. Every row graph has it."""
    return state("rows", [rows, image.width, head.pixel_features])


@dataclass(frozen=True)
class Pixel:
    """What a family makes of one pixel: the head's input [B,D], what the next pixel is handed by name, and what the row
    keeps of all its pixels by name, each [B,...].
    """

    stream: str
    carried: Mapping[str, str]
    kept: Mapping[str, str]


class RowGraph:
    """A row graph being built. `states` and `label` (None without classes) are values of `graph`, [B,...]."""

    def __init__(
        self, image: ImageShape, head: HeadWeights, states: Sequence[bundle_pb2.StateSpec], *, labelled: bool
    ) -> None:
        self.image, self.head, self._specs = image, head, states
        self.graph = g = GraphBuilder("row")
        row: list[int | str] = ["batch", image.width, image.channels]
        self._given = g.input("given", UINT8, row)
        self._known = g.input("known", BOOL, row)
        self._uniforms = g.input("uniforms", FLOAT, row)
        self._temperature = g.input("temperature", FLOAT, ["batch"])
        self.label = g.input("label", INT64, ["batch"]) if labelled else None
        self.states = {spec.input: g.input(spec.input, FLOAT, ["batch", *spec.shape]) for spec in states}
        self.batch = g.add("Shape", self._given, start=0, end=1)  # [1]

    def windows(self, rows_in: str, channels: int, taps: tuple[int, int], dilation: int = 1) -> str:
        """[B,rows·W,channels] -> [B·W, rows·columns·channels]: what windows see of their rows, zeros outside the image.

        taps: rows and columns. A window is centred on its column, and its columns lie `dilation` apart.
        """
        g, width, (rows, columns) = self.graph, self.image.width, taps
        padded = g.add("Concat", rows_in, self.zeros(1, channels), axis=1)
        outside = rows * width
        index = np.full((width, rows, columns), outside, np.int64)
        for tap in range(columns):
            for column in range(width):
                at = column + (tap - columns // 2) * dilation
                if 0 <= at < width:
                    index[column, :, tap] = np.arange(rows) * width + at
        gathered = g.add("Gather", padded, index.reshape(width, rows * columns), axis=1)
        return g.reshape(gathered, -1, rows * columns * channels)

    def pixel_windows(self, taps: tuple[int, int]) -> str:
        """[B·W, rows·columns·F]: what windows see of the rows of pixels above."""
        features = self.head.pixel_features
        return self.windows(self.graph.reshape(self.states["rows"], 0, -1, features), features, taps)

    def from_rows_above(self, window: WindowWeights) -> tuple[str, int]:
        """What the first window takes from the rows above, [W,B,D], and D."""
        channels = len(window.bias)
        above = self.graph.add("Gemm", self.pixel_windows(window.taps), window.above, window.bias)
        return self.timed(above, channels), channels

    def timed(self, values: str, channels: int) -> str:
        """[B·W,channels] or [B,W,channels] -> [W,B,channels]: a Scan over columns takes those first."""
        g = self.graph
        return g.add("Transpose", g.reshape(values, -1, self.image.width, channels), perm=[1, 0, 2])

    def by_image(self, values: Mapping[str, str]) -> dict[str, str]:
        """[W,B,channels] -> [B,W,channels], as states have it: what `paint` gives, by name."""
        return {name: self.graph.add("Transpose", value, perm=[1, 0, 2]) for name, value in values.items()}

    def with_label(self, sums: str, vectors: Array | None, part: slice = slice(None)) -> str:
        """Sums [W,B,channels] plus the label's vector, of `vectors` [classes,...] that `part`; as they are for None."""
        if self.label is None or vectors is None:
            return sums
        return self.graph.add("Add", sums, self.graph.add("Gather", vectors[:, part], self.label))

    def zeros(self, *shape: int) -> str:
        """[B, *shape] of zeros."""
        g = self.graph
        return g.add("ConstantOfShape", g.add("Concat", self.batch, np.array(shape, np.int64), axis=0))

    def paint(
        self,
        window: int,
        carried: Mapping[str, int],
        scanned: Mapping[str, tuple[str, int]],
        pixel: Callable[[GraphBuilder], Pixel],
    ) -> dict[str, str]:
        """Paint the row, pixel by pixel, and declare the outputs that are of it; gives what was kept, [W,B,...].

        window: so many of the last features are handed to `pixel` as "window" [B,window], zeros before the first pixel.
        carried: channels of what else a pixel is handed by the one before, by name. scanned: values [W,B,channels] that
        each pixel has its part of, and their channels, by name. `pixel` builds one pixel, given the Scan's body.
        """
        g, image, head = self.graph, self.image, self.head
        coldest = np.array(COLDEST, np.float32)
        inverse = g.add("Div", np.array(1, np.float32), g.add("Max", self._temperature, coldest))
        inverse = g.add("Unsqueeze", inverse, np.array([1]))  # [B,1]
        given_levels = levels_of_bytes(g, self._given, image.levels)

        body = GraphBuilder("pixel", outer=g)
        initial = {name: self.zeros(channels) for name, channels in {"window": window, **carried}.items()}
        for name in initial:
            body.input(name, FLOAT, ["batch", "width"])
        for name, (_, channels) in scanned.items():
            body.input(name, FLOAT, ["batch", channels])
        draw = make_draw(
            g,
            body,
            self._uniforms,
            self._known,
            given_levels,
            inverse,
            head.feature_table,
            image.channels,
            head.mixture,
        )
        fed = [*(value for value, _ in scanned.values()), *draw.scanned]

        made = pixel(body)
        levels, features, numbers = self._draw(draw, made.stream)
        newest = features[0] if len(features) == 1 else body.add("Concat", *features, axis=1)  # [B,F]
        shifted = body.add("Concat", "window", newest, axis=1)
        last = np.array([np.iinfo(np.int64).max])
        next_window = body.add("Slice", shifted, np.array([head.pixel_features]), last, np.array([1]))
        for name in initial:
            body.output(f"next_{name}", {**made.carried, "window": next_window}[name], FLOAT, ["batch", "width"])
        body.output("pixel", newest, FLOAT, ["batch", head.pixel_features])
        for c in range(image.channels):
            draw.declare(c, levels[c])
            body.output(f"numbers_{c}", numbers[c], FLOAT, ["batch", "values"])
        for name, value in made.kept.items():
            body.output(f"kept_{name}", value, FLOAT, ["batch", "width"])

        drawn_end = 1 + 2 * image.channels
        results = g.add_many(
            "Scan",
            len(initial) + drawn_end + len(made.kept),
            *initial.values(),
            *fed,
            body=body.graph(),
            num_scan_inputs=len(fed),
        )[len(initial) :]
        row_levels = g.add("Concat", *(draw.row_levels(g, result) for result in results[1:drawn_end:2]), axis=2)
        row_numbers = g.add("Concat", *(draw.row_numbers(g, result) for result in results[2:drawn_end:2]), axis=2)
        painted = g.add("Where", self._known, self._given, bytes_of_levels(g, row_levels, image.levels))
        g.output("row", painted, UINT8, ["batch", image.width, image.channels])
        scores = draw.log_probabilities(g, row_numbers, row_levels)
        g.output("log_likelihood", self._log_likelihood(scores), FLOAT, ["batch"])
        self._features = g.add("Transpose", results[0], perm=[1, 0, 2])  # [B,W,F]
        return dict(zip(made.kept, results[drawn_end:], strict=True))

    def finish(self, next_states: Mapping[str, str]) -> onnx.ModelProto:
        """The graph, given all states but that of the pixels, [B,...], after `paint`."""
        g = self.graph
        newest = g.add("Unsqueeze", self._features, np.array([1]))  # [B,1,W,F]
        last = np.array([np.iinfo(np.int64).max])
        kept = g.add("Slice", self.states["rows"], np.array([1]), last, np.array([1]))
        found = {**next_states, "rows": g.add("Concat", kept, newest, axis=1)}
        for spec in self._specs:
            g.output(spec.output, found[spec.input], FLOAT, ["batch", *spec.shape])
        return g.model()

    def _draw(self, draw: Draw, stream: str) -> tuple[list[str], list[str], list[str]]:
        """Per channel of the pixel, which sees those before it: level, features [B,F/C] and what it was drawn by."""
        body, head, channels = draw.body, self.head, self.image.channels
        hidden = body.add("Gemm", body.add("Relu", stream), head.hidden, head.hidden_bias)
        per_channel = [hidden]
        if channels > 1:
            per_channel = body.add_many("Split", channels, hidden, axis=1, num_outputs=channels)
        levels: list[str] = []
        features: list[str] = []
        numbers: list[str] = []
        for c, activations in enumerate(per_channel):
            if c > 0:
                earlier = features[0] if c == 1 else body.add("Concat", *features, axis=1)
                activations = body.add("Gemm", earlier, head.earlier[c - 1], activations)
            weight, bias = draw.head(*head.logits[c])
            numbers.append(body.add("Gemm", body.add("Relu", activations), weight, bias))
            level, feature = draw.draw(c, numbers[c])
            levels.append(level)
            features.append(feature)
        return levels, features, numbers

    def _log_likelihood(self, scores: str) -> str:
        """[B]: the log-probabilities [B,W,C] of the free pixels of the row, summed.

        By a matrix product for each sample, which adds in one order whatever the batch is: see bundle.reductions.
        """
        g, size = self.graph, self.image.width * self.image.channels
        free = g.add("Where", self._known, np.zeros(1, np.float32), scores)
        sums = g.add("MatMul", np.ones((1, size), np.float32), g.reshape(free, -1, size, 1))
        return g.reshape(sums, -1)
