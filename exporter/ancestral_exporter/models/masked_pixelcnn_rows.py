"""The row graph of a masked PixelCNN, and its weights: one run paints one image row for every sample of a batch.

    states (rows above) ─> what they add to this row's convolutions, whole width at once
                             └─> Scan over the columns: window, blocks, and what `row_graph` has ─> next states

Letters: B batch, W width, S channels within a block, D = 2S between blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from ancestral.v1 import bundle_pb2
from ancestral_exporter.models import row_graph
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.graph_builder import GraphBuilder
from ancestral_exporter.models.row_graph import Array, HeadWeights, Pixel, RowGraph, WindowWeights

# Rows and columns of the 3×3 convolutions' part on the row above.
_TAPS = (1, 3)


@dataclass(frozen=True)
class BlockWeights:
    """One residual block. own: over the pixel before and the own one, end to end. label: only with classes."""

    shrink: Array  # [D,S]
    shrink_bias: Array  # [S]
    above: Array  # [3S,S]
    bias: Array  # [S]
    own: Array  # [2S,S]
    grow: Array  # [S,D]
    label: Array | None = None  # [classes,S]


@dataclass(frozen=True)
class NetWeights:
    """The whole net."""

    window: WindowWeights
    blocks: Sequence[BlockWeights]
    head: HeadWeights

    @property
    def size(self) -> int:
        """S."""
        return len(self.blocks[0].bias)

    @property
    def label_count(self) -> int:
        label = self.blocks[0].label
        return 0 if label is None else len(label)


def multiply_adds(net: NetWeights, pixels: int) -> dict[str, int]:
    """Multiply-adds of one exactly sampled image of so many pixels, by part of the net.

    What a row's pixels take from rows above is computed for all of them at once; the rest runs pixel by pixel.
    """
    parts = {
        "rows": [net.window.above, *(block.above for block in net.blocks)],
        "pixels": [
            net.window.before,
            *(part for block in net.blocks for part in (block.shrink, block.own, block.grow)),
        ],
        "head": net.head.matrices(),
    }
    return {name: pixels * sum(matrix.size for matrix in matrices) for name, matrices in parts.items()}


def role(image: ImageShape, net: NetWeights, file: str) -> bundle_pb2.Role:
    """The manifest entry of the graph that `build` makes."""
    return row_graph.role(image, _states(image, net), file, labelled=net.label_count > 0)


def build(image: ImageShape, net: NetWeights) -> onnx.ModelProto:
    """The row graph of that net."""
    row = RowGraph(image, net.head, _states(image, net), labelled=net.label_count > 0)
    scanned = {"above": row.from_rows_above(net.window)}
    scanned |= {f"above_{i}": (_from_above(row, net, i), net.size) for i in range(len(net.blocks))}
    carried = {f"before_{i}": net.size for i in range(len(net.blocks))}

    def pixel(body: GraphBuilder) -> Pixel:
        inner: dict[str, str] = {}
        stream = body.add("Gemm", "window", net.window.before, "above")
        for i, block in enumerate(net.blocks):
            value = body.add("Gemm", body.add("Relu", stream), block.shrink, block.shrink_bias)
            inner[f"inner_{i}"] = value = body.add("Relu", value)
            pair = body.add("Concat", f"before_{i}", value, axis=1)
            sums = body.add("Gemm", pair, block.own, f"above_{i}")
            stream = body.add("Gemm", body.add("Relu", sums), block.grow, stream)
        return Pixel(stream, {f"before_{i}": inner[f"inner_{i}"] for i in range(len(net.blocks))}, inner)

    return row.finish(row.by_image(row.paint(len(net.window.before), carried, scanned, pixel)))


def _states(image: ImageShape, net: NetWeights) -> list[bundle_pb2.StateSpec]:
    """The last rows of features, and what each block's 3×3 convolution reads of the last row."""
    inner = [row_graph.state(f"inner_{i}", [image.width, net.size]) for i in range(len(net.blocks))]
    return [row_graph.rows_state(image, net.head, net.window.taps[0]), *inner]


def _from_above(row: RowGraph, net: NetWeights, i: int) -> str:
    """What block i's pixels take from the row above, and from the label, [W,B,S]."""
    block = net.blocks[i]
    window = row.windows(row.states[f"inner_{i}"], net.size, _TAPS)
    sums = row.timed(row.graph.add("Gemm", window, block.above, block.bias), net.size)
    return row.with_label(sums, block.label)
