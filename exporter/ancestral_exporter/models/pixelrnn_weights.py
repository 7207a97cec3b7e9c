"""A PixelRNN's parameters as plain arrays, float32, laid out for a graph built by hand; and how many there are.

Letters: S size of a state, D = 2S channels between layers. What feeds an LSTM's gates has
4S columns: first the output gates, then those that forget, those that let in, and the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ancestral_exporter.models.row_graph import Array, HeadWeights, WindowWeights


@dataclass(frozen=True)
class DirectionWeights:
    """One LSTM that runs over the image.

    inputs: over the layer's input at the pixel before, where the layer looks there, and at its own, end to end.
    above: over the hidden states of the row above, at one column or at three. beside: over that of the pixel that the
    LSTM comes from within the row; None where it only runs down. label: only where there are classes.
    """

    inputs: Array  # [D,4S] or [2D,4S]
    bias: Array  # [4S]
    above: Array  # [S,4S] or [3S,4S]
    beside: Array | None = None  # [S,4S]
    label: Array | None = None  # [classes,4S]

    @property
    def size(self) -> int:
        """S."""
        return len(self.bias) // 4

    @property
    def columns(self) -> int:
        """How many columns of the row above it sees."""
        return len(self.above) // self.size

    def matrices(self) -> list[Array]:
        """What is multiplied by at every pixel."""
        return [self.inputs, self.above, *([] if self.beside is None else [self.beside])]


@dataclass(frozen=True)
class LayerWeights:
    """One residual layer. backward: of a layer in two directions, the LSTM that runs over finished rows."""

    forward: DirectionWeights
    backward: DirectionWeights | None
    project: Array  # [S,D]


@dataclass(frozen=True)
class NetWeights:
    """The whole net."""

    window: WindowWeights
    layers: Sequence[LayerWeights]
    head: HeadWeights

    @property
    def channels(self) -> int:
        """D."""
        return self.head.channels

    @property
    def size(self) -> int:
        """S."""
        return self.channels // 2

    @property
    def label_count(self) -> int:
        label = self.layers[0].forward.label
        return 0 if label is None else len(label)


def multiply_adds(net: NetWeights, pixels: int) -> dict[str, int]:
    """Multiply-adds of one exactly sampled image of so many pixels, by part of the net.

    Every weight meets every pixel once. What a row's pixels take from rows above is computed for all of them at once;
    the rest runs pixel by pixel.
    """
    directions = [layer.forward for layer in net.layers]
    backward = [layer.backward for layer in net.layers if layer.backward]
    # Of the other direction only the step from pixel to pixel is one after the other, and is so for all layers at once.
    parts = {
        "rows": [
            net.window.above,
            *(direction.above for direction in directions),
            *(matrix for direction in backward for matrix in (direction.inputs, direction.above)),
        ],
        "pixels": [
            net.window.before,
            *(matrix for direction in directions for matrix in direction.matrices() if matrix is not direction.above),
            *(layer.project for layer in net.layers),
            *(direction.beside for direction in backward if direction.beside is not None),
        ],
        "head": net.head.matrices(),
    }
    return {name: pixels * sum(matrix.size for matrix in matrices) for name, matrices in parts.items()}
