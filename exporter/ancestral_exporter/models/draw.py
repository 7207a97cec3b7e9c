"""Drawing a pixel's level inside the Scan of a row graph, as `values` does, in as few nodes as possible.

Letters: B batch, W width, C channels, K levels, P numbers that a level is drawn by, M logistics of a mixture, D' head
channels, F features per pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ancestral_exporter.models.graph_builder import BOOL, FLOAT, INT64, UINT8, GraphBuilder
from ancestral_exporter.models.values import LogisticMixture

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

    def scan(self, outer: GraphBuilder, channel: int, uniform: str, known: str, given: str) -> list[str]:
        """Declare the body's inputs for one channel; the outer values to feed them, given three of [W,B,1]."""
        self.body.input(f"uniform_{channel}", FLOAT, ["batch", 1])
        self.body.input(f"known_{channel}", BOOL, ["batch"])
        self.body.input(f"given_{channel}", INT64, ["batch"])
        return [uniform] + [outer.add("Squeeze", value, np.array([2])) for value in (known, given)]

    @abstractmethod
    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """The last layer [D',P'] and its bias [P'], given those for P numbers: P' values are all that a draw needs."""

    @abstractmethod
    def draw(self, channel: int, numbers: str) -> tuple[str, str]:
        """The level and its features [B,F/C], given the head's output [B,P']; of known pixels the given ones."""

    def declare(self, channel: int, level: str) -> None:
        """Make `level` an output of the body."""
        self.body.output(f"level_{channel}", level, INT64, ["batch"])

    def row_levels(self, outer: GraphBuilder, levels: str) -> str:
        """[B,W,1] int64, from the Scan's output of one channel."""
        return outer.add("Unsqueeze", outer.add("Transpose", levels, perm=[1, 0]), np.array([2]))

    def row_numbers(self, outer: GraphBuilder, numbers: str) -> str:
        """[B,W,1,P], from the head's outputs [W,B,P']."""
        return outer.add("Unsqueeze", outer.add("Transpose", numbers, perm=[1, 0, 2]), np.array([2]))

    def log_probabilities(self, outer: GraphBuilder, numbers: str, levels: str) -> str:
        """Natural log [B,W,C] of the probabilities of levels [B,W,C], given `row_numbers` of all channels [B,W,C,P]."""
        scores = outer.add("LogSoftmax", numbers, axis=3)
        index = outer.add("Unsqueeze", levels, np.array([3]))
        return outer.add("Squeeze", outer.add("GatherElements", scores, index, axis=3), np.array([3]))


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
    mixture: LogisticMixture | None = None,
) -> Draw:
    """The draw for len(table) levels, by a mixture of logistics where there is one, else by K logits.

    uniforms, known and given levels are [B,W,C].
    """
    draw: Draw
    if mixture is not None:
        draw = DrawMixture(body, inverse, table, mixture)
    else:
        draw = (DrawBit if len(table) == 2 else DrawLevel)(body, inverse, table)
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

    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        return weight, bias

    def draw(self, channel: int, numbers: str) -> tuple[str, str]:
        body = self.body
        probabilities = body.add("Softmax", body.add("Mul", numbers, self.inverse), axis=1)
        cumulated = body.add("MatMul", probabilities, self.cumulate)  # [B,K-1]
        passed = body.cast(body.add("LessOrEqual", cumulated, f"uniform_{channel}"), INT64)
        drawn = body.add("ReduceSum", passed, np.array([1]), keepdims=0)
        level = body.add("Where", f"known_{channel}", f"given_{channel}", drawn)
        return level, body.add("Gather", self.table, level)


class DrawMixture(Draw):
    """A mixture of logistics, as `values.LogisticMixture` draws and scores. Numbers are logits, positions and rates."""

    def __init__(self, body: GraphBuilder, inverse: str, table: Array, mixture: LogisticMixture) -> None:
        super().__init__(body, inverse, table)
        self.mixture = mixture

    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """With what `LogisticMixture.split` does to a net's output, but for the bound of the rates."""
        mixture, count = self.mixture, self.mixture.mixtures
        half = np.float32((mixture.levels - 1) / 2)
        weight, bias = weight.copy(), bias.copy()
        bias[count : 2 * count] += np.array(mixture.centres, np.float32) + 1
        bias[2 * count :] += np.float32(mixture.rate)
        weight[:, count : 2 * count] *= half
        bias[count : 2 * count] *= half
        return weight, bias

    def draw(self, channel: int, numbers: str) -> tuple[str, str]:
        body, mixture = self.body, self.mixture
        logits, positions, rates = body.add_many("Split", 3, numbers, axis=1, num_outputs=3)
        weights = body.add("Softmax", body.add("Mul", logits, self.inverse), axis=1)
        weights = body.add("Unsqueeze", weights, np.array([1]))  # [B,1,M]
        # Minus the sharpness [B,M,1]: thresholds are subtracted from positions.
        inverse = body.add("Unsqueeze", self.inverse, np.array([2]))
        sharpness = body.add("Mul", _minus_softplus(body, self._bounded(body, rates)), inverse)
        positions = body.add("Unsqueeze", positions, np.array([2]))
        uniform = body.add("Unsqueeze", f"uniform_{channel}", np.array([2]))  # [B,1,1]

        def passed(thresholds: str | Array) -> str:
            """How many of the thresholds, [T] or [B,1,T], lie below the level: [B] int64."""
            offsets = body.add("Mul", body.add("Sub", positions, thresholds), sharpness)
            cdf = body.add("MatMul", weights, body.add("Sigmoid", offsets))  # [B,1,T]
            under = body.cast(body.add("LessOrEqual", cdf, uniform), INT64)
            return body.add("ReduceSum", under, np.array([1, 2]), keepdims=0)

        coarse, fine = (np.array(steps, np.float32) for steps in (mixture.coarse, mixture.fine))
        block = body.add("Mul", passed(coarse), np.array(mixture.step))
        below = body.add("Unsqueeze", body.cast(block, FLOAT), np.array([1, 2]))
        drawn = body.add("Add", block, passed(body.add("Add", below, fine)))
        drawn = body.add("Min", drawn, np.array(mixture.levels - 1))
        level = body.add("Where", f"known_{channel}", f"given_{channel}", drawn)
        return level, body.add("Gather", self.table, level)

    def log_probabilities(self, outer: GraphBuilder, numbers: str, levels: str) -> str:
        g, last = outer, np.array(self.mixture.levels - 1)
        logits, positions, rates = g.add_many("Split", 3, numbers, axis=3, num_outputs=3)
        rates = self._bounded(g, rates)
        levels = g.add("Unsqueeze", levels, np.array([3]))
        offsets = g.add("Sub", g.cast(levels, FLOAT), positions)  # [B,W,C,M]

        def minus_softplus(value: str) -> str:
            return g.add("Squeeze", _minus_softplus(g, value), np.array([4]))

        sharpness, half = minus_softplus(rates), np.array(0.5, np.float32)
        upper = g.add("Mul", sharpness, g.add("Add", offsets, half))
        lower = g.add("Mul", sharpness, g.add("Sub", offsets, half))
        below_upper, above_lower = minus_softplus(upper), minus_softplus(g.add("Neg", lower))
        within = g.add("Add", g.add("Add", below_upper, above_lower), minus_softplus(g.add("Neg", rates)))
        scores = g.add("Where", g.add("Equal", levels, last), above_lower, within)
        scores = g.add("Where", g.add("Equal", levels, np.array(0)), below_upper, scores)
        joint = g.add("Add", g.add("LogSoftmax", logits, axis=3), scores)
        largest, share = (
            g.add("ReduceMax", value, np.array([3]), keepdims=0)
            for value in (joint, g.add("LogSoftmax", joint, axis=3))
        )
        return g.add("Sub", largest, share)

    def _bounded(self, graph: GraphBuilder, rates: str) -> str:
        return graph.add("Max", rates, np.array(self.mixture.least_rate, np.float32))


def _minus_softplus(graph: GraphBuilder, value: str) -> str:
    """As `values.softplus` of [...], negative: [...,1]."""
    pairs = graph.add("Mul", graph.add("Unsqueeze", value, np.array([-1])), np.array([0, 1], np.float32))
    return graph.add("Gather", graph.add("LogSoftmax", pairs, axis=-1), np.array([0]), axis=-1)


class DrawBit(Draw):
    """K = 2: one logit decides, that of level 0 over level 1; a known pixel is one whose uniform leaves no choice."""

    def scan(self, outer: GraphBuilder, channel: int, uniform: str, known: str, given: str) -> list[str]:
        self.body.input(f"uniform_{channel}", FLOAT, ["batch", 1])
        above, below = np.full(1, 2, np.float32), np.full(1, -1, np.float32)  # beyond any probability
        forced = outer.add("Where", outer.cast(given, BOOL), above, below)
        return [outer.add("Where", known, forced, uniform)]

    def head(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        return weight[:, :1] - weight[:, 1:], bias[:1] - bias[1:]

    def draw(self, channel: int, numbers: str) -> tuple[str, str]:
        body = self.body
        zero = body.add("Sigmoid", body.add("Mul", numbers, self.inverse))  # the probability of level 0
        level = body.add("LessOrEqual", zero, f"uniform_{channel}")  # [B,1] bool
        return level, body.add("Where", level, self.table[1], self.table[0])

    def declare(self, channel: int, level: str) -> None:
        self.body.output(f"level_{channel}", level, BOOL, ["batch", 1])

    def row_levels(self, outer: GraphBuilder, levels: str) -> str:
        return outer.cast(outer.add("Transpose", levels, perm=[1, 0, 2]), INT64)

    def row_numbers(self, outer: GraphBuilder, numbers: str) -> str:
        first = super().row_numbers(outer, numbers)
        return outer.add("Concat", first, outer.add("Mul", first, np.zeros(1, np.float32)), axis=3)
