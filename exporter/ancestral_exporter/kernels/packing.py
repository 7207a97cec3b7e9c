"""What pixelcnn_row.cu needs of a net: its weights, in one array, and the sizes that it is compiled for, its config.h.

Channels are padded with zeros, which stay zeros through all layers. The two weights that signal and switch of a gate
have lie side by side. Where the net multiplies the features of a level by a matrix, there is a table of the products: a
row for each of the K levels, and one of zeros for what lies outside the image.

Letters as in pixelcnn_rows.py; S samples of a block of threads, P numbers that a level is drawn by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn_weights import LayerWeights, NetWeights, multiply_adds
from ancestral_exporter.models.row_graph import Array

# As in pixelcnn_row.cu. Eight warps: a multiprocessor has four schedulers, and two warps each hide the latency of the
# other's arithmetic, while each thread may still have all of 255 registers.
THREADS, WARPS, WARP = 256, 8, 32
# Of the number of channels: eight warps share the summands of a product. Above 64 they share them in groups of about 8,
# which such numbers have as a divisor.
_FEW, _FEW_STEP, _MANY_STEP = 64, 8, 32
# Levels whose probabilities a thread adds, BUNCH of pixelcnn_row.cu.
_BUNCH = 16


@dataclass(frozen=True)
class Block:
    """How a block of threads divides the work. tile: columns of a warp in the vertical stack, at most; lanes: channels
    of a gate that one of its threads has.
    """

    samples: int
    tile: int
    lanes: int


# Tiles so narrow that eight warps have something to do each, for an image of MNIST's width, and so wide that weights
# are used often: 28 columns times 4 channels are 112 sums, of the 255 registers of a thread.
BLOCKS = (Block(1, 8, 2), Block(2, 8, 4), Block(4, 16, 4), Block(8, 28, 4))


@dataclass(frozen=True)
class Packed:
    """A net, packed: its weights, and what a launch needs for it. `config` gives the source text for each block."""

    image: ImageShape
    weights: Array  # [...] float32
    state_bytes: int  # of a slot
    multiply_adds: int  # of one image
    sizes: dict[str, int | str] = field(repr=False)

    @property
    def content(self) -> bytes:
        """The file of weights."""
        return self.weights.astype("<f4").tobytes()

    @property
    def channels(self) -> int:
        """D, padded."""
        return int(self.sizes["D"])

    def config(self, block: Block) -> str:
        """The text of config.h."""
        return "".join(f"#define {name} {value}\n" for name, value in (self.sizes | self._of_block(block)).items())

    def shared_bytes(self, block: Block) -> int:
        """Dynamic shared memory of a block of threads."""
        return int(self._of_block(block)["SHARED_BYTES"])

    def scratch_bytes(self, block: Block) -> int:
        """Scratch of a block of threads, in the GPU's memory."""
        return int(self._of_block(block)["SCRATCH_BYTES"])

    def _of_block(self, block: Block) -> dict[str, int]:
        size = {name: value for name, value in self.sizes.items() if isinstance(value, int)}
        samples, width, channels, pad = block.samples, self.image.width, self.image.channels, size["PAD"]
        # As few tiles as there must be, all of one width.
        tile = up(-(-width // -(-width // block.tile)), 4)
        padded = -(-width // tile) * tile
        stride = up(padded + pad, 4)
        # An odd multiple of 16 bytes: threads that write to different rows meet different banks.
        stride += 4 * (stride // 4 % 2 == 0)
        levels = samples * size["R"] * (padded + size["FC"] - 1) * channels
        rows = max(up(samples * size["D"] * stride + pad + 4, 4), up(levels, 4))
        vertical = 2 * rows + samples * size["D"] * padded
        # The fields of `Shared`.
        kept = (size["LH"] - 1) * 2 * size["D"] + 2 * size["D"] + channels * size["DH"] + size["DHP"] + size["NPN"]
        kept += size["WORK"] + (size["P"] + width) * channels
        widest = max(size["NPW"], size["NPP"], size["NPH"], size["NPN"])
        pixels = up(kept * samples, 4) + WARPS * samples * widest
        return {
            "S": samples,
            "TW": tile,
            "VV": min(block.lanes, size["VW"]),
            "STRIDE": stride,
            "GATED": padded,
            "ROW_BUFFER": rows,
            "SHARED_BYTES": 4 * (4 * samples + max(vertical, pixels)),
            "SCRATCH_BYTES": 4 * width * size["LH"] * samples * size["NPW"],
        }


def pack(image: ImageShape, net: NetWeights) -> Packed:
    """The net of a row graph, as `reading` gives it: the head's numbers are those that the graph's draw works with."""
    return _Packing(image, net).packed()


def up(value: int, step: int) -> int:
    """The least multiple of step that is not less."""
    return -(-value // step) * step


def _lanes(columns: int) -> int:
    """Columns of a product that a thread has, of those of its warp."""
    return 4 if columns > 64 else 2 if columns > 32 else 1


def _padded(matrix: Array, rows: int, columns: int) -> Array:
    out = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


class _Packing:
    """Puts one part after another, and notes where the first and the second of a kind begin."""

    def __init__(self, image: ImageShape, net: NetWeights) -> None:
        self.image, self.net, self.head = image, net, net.head
        self.parts: list[Array] = []
        self.length = 0
        self.sizes: dict[str, int | str] = {}
        channels = net.channels
        self.channels = up(channels, _FEW_STEP if channels <= _FEW else _MANY_STEP)  # D
        self.gate_lanes = max(2, _lanes(2 * self.channels))
        self.gates = up(2 * self.channels, WARP * self.gate_lanes)

    def packed(self) -> Packed:
        image, net, head, channels = self.image, self.net, self.head, self.channels
        hidden, numbers = head.hidden.shape[1] // image.channels, len(head.logits[0][1])
        first, *later = net.vertical
        rows, columns = first.taps
        state_at, levels_at, size = self._states()
        apart = [layer.dilation[1] for layer in later]
        self.sizes = {
            "H": image.height, "W": image.width, "C": image.channels, "K": image.levels, "D": channels,
            "R": rows, "FC": columns, "P": net.horizontal[0].taps[1], "DH": hidden, "DHP": up(hidden, WARPS),
            "LV": len(net.vertical), "LH": len(net.horizontal), "LABELS": net.label_count, "NUMBERS": numbers,
            "VW": self.gate_lanes, "NPW": self.gates,
            **_columns("P", channels), **_columns("H", image.channels * hidden), **_columns("N", numbers),
            "STATE": size, "STATE_LEVELS": levels_at, "PAD": max([1, *apart]),
            "LINKS": _listed(net.links), "STATE_AT": _listed([0, *state_at]),
            "ROWS_BACK": _listed([0, *(layer.dilation[0] for layer in later)]), "COLUMNS": _listed([0, *apart]),
            "APARTS": _listed(sorted(set(apart) or {1})),
            **self._draw(),
        }  # fmt: skip
        self._layers()
        self._head(hidden)
        work = sum(multiply_adds(net, image.height * image.width).values())
        return Packed(image, np.concatenate(self.parts), 4 * size, work, self.sizes)

    def _states(self) -> tuple[list[int], int, int]:
        """Where the rows of each later vertical layer and the levels lie in a slot's state, and its size, in floats."""
        at, end = [], 0
        for layer in self.net.vertical[1:]:
            at.append(end)
            end += layer.dilation[0] * self.channels * self.image.width
        levels = self.net.vertical[0].taps[0] * self.image.width * self.image.channels
        return at, end, up(end + -(-levels // 4), 4)

    def _draw(self) -> dict[str, int | str]:
        mixture, levels = self.head.mixture, self.image.levels
        if mixture is None:
            work = 0 if levels == 2 else 3 * -(-levels // _BUNCH) + 2 * levels
            return {"MIXTURES": 0, "WORK": work}
        work = 4 * mixture.mixtures + len(mixture.coarse) + len(mixture.fine)
        least = f"{float(np.float32(mixture.least_rate)).hex()}f"
        return {"MIXTURES": mixture.mixtures, "WORK": work, "STEP": mixture.step, "LEAST_RATE": least}

    # ---- weights

    def _layers(self) -> None:
        net, wide, narrow = self.net, self.gates, int(self.sizes["NPP"])
        for i, layer in enumerate(net.vertical):
            if i < 2:
                self._mark("OFF_V" if i else "OFF_V0")
            self._add(self._window(layer, tabled=i == 0), self._told(layer), self._project(layer, narrow))
        self._mark("OFF_LINK")
        for layer in net.horizontal:
            assert layer.link is not None
            self._add(self._paired(layer.link, self.channels), self._told(layer))
        for i, layer in enumerate(net.horizontal):
            if i < 2:
                self._mark("OFF_H" if i else "OFF_H0")
            self._add(self._window(layer, tabled=i == 0), self._project(layer, narrow))
        for missing in {"OFF_V", "OFF_H"} - self.sizes.keys():
            self.sizes[missing] = 0
        told = max(1, net.label_count)
        self.sizes["STEP_V"] = (6 * self.channels + told) * wide + self.channels * narrow
        self.sizes["STEP_LINK"] = (self.channels + told) * wide
        self.sizes["STEP_H"] = 2 * self.channels * wide + self.channels * narrow

    def _head(self, hidden: int) -> None:
        head, wide, numbers = self.head, int(self.sizes["NPH"]), int(self.sizes["NPN"])
        self._mark("OFF_HIDDEN")
        self._add(_padded(head.hidden, self.channels, wide), _padded(head.hidden_bias[None], 1, wide))
        self._mark("OFF_EARLIER")
        for matrix in head.earlier:
            self._add(self._table(matrix))
        self._mark("OFF_NUMBERS")
        padded = int(self.sizes["DHP"])
        for weight, bias in head.logits:
            self._add(_padded(weight, padded, numbers), _padded(bias[None], 1, numbers))
        self.sizes["STEP_NUMBERS"] = (padded + 1) * numbers

    def _window(self, layer: LayerWeights, *, tabled: bool) -> Array:
        """[taps·D,gates], or of levels: [taps·C·(K+1),gates]."""
        if tabled:
            return self._table(self._paired(layer.window, len(layer.window)))
        taps = math.prod(layer.taps)
        padded = np.zeros((taps, self.channels, layer.window.shape[1]), np.float32)
        padded[:, : self.net.channels] = layer.window.reshape(taps, self.net.channels, -1)
        return self._paired(padded.reshape(taps * self.channels, -1), taps * self.channels)

    def _told(self, layer: LayerWeights) -> Array:
        """[max(1,classes),gates]: the bias, with the vector of each class where there are classes."""
        told = layer.bias[None] if layer.label is None else layer.bias + layer.label
        return self._paired(told, len(told))

    def _project(self, layer: LayerWeights, narrow: int) -> Array:
        return _padded(layer.project, self.channels, narrow)

    def _paired(self, matrix: Array, rows: int) -> Array:
        """[rows,gates] of [.,2D]: signal j in column 2j, switch j in column 2j+1."""
        paired = np.stack(np.split(matrix, 2, axis=1), axis=2).reshape(len(matrix), -1)
        return _padded(paired, rows, self.gates)

    def _table(self, matrix: Array) -> Array:
        """[values·(K+1),columns] of [values·F/C,columns]: for each value of a window the products of every level."""
        table = self.head.feature_table.astype(np.float64)
        windows = matrix.reshape(-1, table.shape[1], matrix.shape[1]).astype(np.float64)
        products = np.zeros((len(windows), self.image.levels + 1, matrix.shape[1]), np.float32)
        products[:, :-1] = table @ windows
        return products.reshape(-1, matrix.shape[1])

    def _add(self, *matrices: Array) -> None:
        for matrix in matrices:
            self.parts.append(np.ascontiguousarray(matrix, np.float32).ravel())
            self.length += matrix.size

    def _mark(self, name: str) -> None:
        """Four floats are loaded at a time."""
        self._add(np.zeros(-self.length % 4, np.float32))
        self.sizes[name] = self.length


def _columns(letter: str, columns: int) -> dict[str, int | str]:
    """Of a product: columns of a thread, and how many there are with padding."""
    lanes = _lanes(columns)
    return {f"V{letter}": lanes, f"NP{letter}": up(columns, WARP * lanes)}


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
