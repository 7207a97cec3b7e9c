"""A PixelCNN's parameters as plain arrays, float32, laid out for a graph built by hand; and how many there are.

Letters: D channels of the stacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ancestral_exporter.models.row_graph import Array, HeadWeights


@dataclass(frozen=True)
class LayerWeights:
    """One gated layer. The columns of what feeds the gate are first the D of the signal, then the D of the switch.

    taps: rows and columns of the window, the own row being the last; dilation: how far apart they lie. link: horizontal
    layers only. label: only where there are classes.
    """

    taps: tuple[int, int]
    dilation: tuple[int, int]
    window: Array  # [rows·columns·inputs,2D]
    bias: Array  # [2D]
    project: Array  # [D,D]
    link: Array | None = None  # [D,2D]
    label: Array | None = None  # [classes,2D]

    @property
    def inputs(self) -> int:
        """Channels of what the window looks at."""
        return len(self.window) // math.prod(self.taps)


@dataclass(frozen=True)
class NetWeights:
    """The whole net. links: the vertical layer that each horizontal one reads."""

    vertical: Sequence[LayerWeights]
    horizontal: Sequence[LayerWeights]
    links: Sequence[int]
    head: HeadWeights

    @property
    def channels(self) -> int:
        """D."""
        return self.head.channels

    @property
    def label_count(self) -> int:
        label = self.vertical[0].label
        return 0 if label is None else len(label)


def multiply_adds(net: NetWeights, pixels: int) -> dict[str, int]:
    """Multiply-adds of one exactly sampled image of so many pixels, by part of the net.

    The caches see to it that every weight meets every pixel once, as in one parallel pass. The vertical stack, with the
    links out of it, runs once a row, over the row's whole width; the rest runs pixel by pixel.
    """
    links = [layer.link for layer in net.horizontal if layer.link is not None]
    parts = {
        "vertical": [*_products(net.vertical), *links],
        "horizontal": _products(net.horizontal),
        "head": net.head.matrices(),
    }
    return {name: pixels * sum(matrix.size for matrix in matrices) for name, matrices in parts.items()}


def _products(layers: Sequence[LayerWeights]) -> list[Array]:
    return [matrix for layer in layers for matrix in (layer.window, layer.project)]
