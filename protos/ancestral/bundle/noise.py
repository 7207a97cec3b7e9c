"""The noise that graphs are fed, as bundle.proto defines it: stream (seed, index), and nothing else, decides about it.

So what is made of it is the same alone or in any batch, today or on another machine. numpy keeps the raw words of a bit
generator stable across versions, which it does not promise for the distributions built on them: those are made here.
"""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Words of a block of Philox 4×64.
_BLOCK = 4


class _Generator(threading.local):
    """A generator for each thread: one that is made anew gathers entropy first, and is three times as slow."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._state: Any = self._philox.state

    def words(self, seed: int, index: int, start: int, count: int) -> NDArray[np.uint64]:
        """Words `start` to `start + count` of stream (seed, index)."""
        block, skipped = divmod(start, _BLOCK)
        state = self._state["state"]
        state["key"][:] = seed, index
        # numpy counts up before it makes a block.
        state["counter"][0] = block
        self._philox.state = self._state
        words: NDArray[np.uint64] = self._philox.random_raw(skipped + count)
        return words[skipped:]


_generator = _Generator()


def uniforms(seed: int, index: int, shape: tuple[int, ...], start: int = 0) -> NDArray[np.float32]:
    """Values of stream (seed, index) from word `start` on, in the given shape: float32 in [0,1), multiples of 2^-24.

    seed, index: 0 to 2^63 - 1.
    """
    words = _generator.words(seed, index, start, prod(shape))
    return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def uniforms_of_range(seed: int, first: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The beginnings of streams (seed, first) to (seed, first + count - 1): [count, *shape]."""
    rows = np.empty((count, *shape), np.float32)
    for i in range(count):
        rows[i] = uniforms(seed, first + i, shape)
    return rows


def normals(uniforms: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard normals [N,...] from independent uniforms [N,2,...] in [0,1) by Box & Muller (1958)."""
    wide = uniforms.astype(np.float64)
    # 1 - u is in (0,1], so the logarithm is finite; on the grid of 2^-24 the largest normal is 5.77.
    result: NDArray[np.float64] = np.sqrt(-2 * np.log(1 - wide[:, 0])) * np.cos(2 * np.pi * wide[:, 1])
    return result
