"""Drawing a pixel's level inside the Scan of a row graph, as `quantise.inverse_cdf` does, in as few nodes as possible.

Letters: B batch, W width, C channels, K levels, D' head channels, F features per pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ancestral_exporter.models.graph_builder import BOOL, FLOAT, INT64, UINT8, GraphBuilder

Array = np.ndarray[Any, Any]


class Draw(ABC):
    """Draws every channel of a pixel. `scanned` are the values [W,B,...] of the outer graph that the Scan must be fed.

    table [K,F/C] are the features of each level; inverse [B,1] is one over the temperature.
    """

    def __init__(self, body: GraphBuilder, inverse: str, table: Array) -> None:
        self.body = body
        self.inverse = inverse
        self.table = table
        self.scanned: list[str] = []

    @abstractmethod
    def scan(self, outer: GraphBuilder, channel: int, uniform: str, known: str, given: str) -> list[str]:
        """Declare the body's inputs for one channel; the outer values to feed them, given three of [W,B,1]."""

    @abstractmethod
    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """The last layer [D',K'] and its bias [K'], given those for K logits: K' values are all that a draw needs."""

    @abstractmethod
    def draw(self, channel: int, logits: str) -> tuple[str, str]:
        """The level and its features [B,F/C], given the head's output [B,K']; of known pixels the given ones."""

    @abstractmethod
    def declare(self, channel: int, level: str) -> None:
        """Make `level` an output of the body."""

    @abstractmethod
    def row_levels(self, outer: GraphBuilder, levels: str) -> str:
        """[B,W,1] int64, from the Scan's output of one channel."""

    @abstractmethod
    def row_logits(self, outer: GraphBuilder, logits: str) -> str:
        """[B,W,1,K], from the head's outputs [W,B,K']."""


def levels_of_bytes(graph: GraphBuilder, value: str, levels: int) -> str:
    """As `quantise.to_levels`."""
    scaled = graph.add("Mul", graph.cast(value, FLOAT), np.array(levels - 1, np.float32))
    return graph.cast(graph.add("Round", graph.add("Div", scaled, np.array(255, np.float32))), INT64)


def bytes_of_levels(graph: GraphBuilder, value: str, levels: int) -> str:
    """As `quantise.from_levels`."""
    scaled = graph.add("Mul", graph.cast(value, FLOAT), np.array(255, np.float32))
    return graph.cast(graph.add("Round", graph.add("Div", scaled, np.array(levels - 1, np.float32))), UINT8)


def make_draw(
    outer: GraphBuilder,
    body: GraphBuilder,
    uniforms: str,
    known: str,
    given: str,
    inverse: str,
    table: Array,
    channels: int,
) -> Draw:
    """The draw for len(table) levels; uniforms, known and given levels are [B,W,C]."""
    kind = DrawBit if len(table) == 2 else DrawLevel
    draw = kind(body, inverse, table)
    for channel in range(channels):
        timed = []
        for value in (uniforms, known, given):
            column = outer.add("Gather", value, np.array([channel]), axis=2)
            timed.append(outer.add("Transpose", column, perm=[1, 0, 2]))  # [W,B,1]
        draw.scanned += draw.scan(outer, channel, *timed)
    return draw


class DrawLevel(Draw):
    """Any K: the level is the number of cumulated probabilities that are <= u."""

    def __init__(self, body: GraphBuilder, inverse: str, table: Array) -> None:
        super().__init__(body, inverse, table)
        levels = len(table)
        # The last cumulated probability is 1 and left out, so that no rounding can lead above K-1.
        self.cumulate = body.constant(np.triu(np.ones((levels, levels - 1), np.float32)))

    def scan(self, outer: GraphBuilder, channel: int, uniform: str, known: str, given: str) -> list[str]:
        self.body.input(f"uniform_{channel}", FLOAT, ["batch", 1])
        self.body.input(f"known_{channel}", BOOL, ["batch"])
        self.body.input(f"given_{channel}", INT64, ["batch"])
        return [uniform] + [outer.add("Squeeze", value, np.array([2])) for value in (known, given)]

    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        return weight, bias

    def draw(self, channel: int, logits: str) -> tuple[str, str]:
        body = self.body
        probabilities = body.add("Softmax", body.add("Mul", logits, self.inverse), axis=1)
        cumulated = body.add("MatMul", probabilities, self.cumulate)  # [B,K-1]
        passed = body.cast(body.add("LessOrEqual", cumulated, f"uniform_{channel}"), INT64)
        drawn = body.add("ReduceSum", passed, np.array([1]), keepdims=0)
        level = body.add("Where", f"known_{channel}", f"given_{channel}", drawn)
        return level, body.add("Gather", self.table, level)

    def declare(self, channel: int, level: str) -> None:
        self.body.output(f"level_{channel}", level, INT64, ["batch"])

    def row_levels(self, outer: GraphBuilder, levels: str) -> str:
        return outer.add("Unsqueeze", outer.add("Transpose", levels, perm=[1, 0]), np.array([2]))

    def row_logits(self, outer: GraphBuilder, logits: str) -> str:
        return outer.add("Unsqueeze", outer.add("Transpose", logits, perm=[1, 0, 2]), np.array([2]))


class DrawBit(Draw):
    """K = 2: one logit decides, that of level 0 over level 1; a known pixel is one whose uniform leaves no choice."""

    def scan(self, outer: GraphBuilder, channel: int, uniform: str, known: str, given: str) -> list[str]:
        self.body.input(f"uniform_{channel}", FLOAT, ["batch", 1])
        above, below = np.full(1, 2, np.float32), np.full(1, -1, np.float32)  # beyond any probability
        forced = outer.add("Where", outer.cast(given, BOOL), above, below)
        return [outer.add("Where", known, forced, uniform)]

    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        return weight[:, :1] - weight[:, 1:], bias[:1] - bias[1:]

    def draw(self, channel: int, logits: str) -> tuple[str, str]:
        body = self.body
        zero = body.add("Sigmoid", body.add("Mul", logits, self.inverse))  # the probability of level 0
        level = body.add("LessOrEqual", zero, f"uniform_{channel}")  # [B,1] bool
        return level, body.add("Where", level, self.table[1], self.table[0])

    def declare(self, channel: int, level: str) -> None:
        self.body.output(f"level_{channel}", level, BOOL, ["batch", 1])

    def row_levels(self, outer: GraphBuilder, levels: str) -> str:
        return outer.cast(outer.add("Transpose", levels, perm=[1, 0, 2]), INT64)

    def row_logits(self, outer: GraphBuilder, logits: str) -> str:
        first = outer.add("Unsqueeze", outer.add("Transpose", logits, perm=[1, 0, 2]), np.array([2]))
        return outer.add("Concat", first, outer.add("Mul", first, np.zeros(1, np.float32)), axis=3)
