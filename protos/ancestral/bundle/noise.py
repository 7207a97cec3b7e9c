"""The noise that graphs are fed, as bundle.proto defines it: stream (seed, index), and nothing else, decides about it.

So what is made of it is the same alone or in any batch, today or on another machine. numpy keeps the raw words of a bit
generator stable across versions, which it does not promise for the distributions built on them: those are made here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Words of a block of Philox 4×64.
_BLOCK = 4
# Of a word its highest bits are used, so many that float32 holds them exactly.
_BITS = 24
_SHIFT, _SCALE = np.uint64(64 - _BITS), np.float32(2**-_BITS)
# Streams that are drawn before what was drawn is converted: the words of 28×28 images then stay in a core's own cache,
# and a call of numpy converts many of them.
_TOGETHER = 16


class _Generator(threading.local):
    """A generator for each thread: one that is made anew gathers entropy first, and is three times as slow."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._state: Any = self._philox.state

    def words(self, seed: int, index: int, start: int, count: int) -> NDArray[np.uint64]:
        """Words `start` to `start + count` of stream (seed, index)."""
        block, skipped = divmod(start, _BLOCK)
        state = self._state["state"]
        key = state["key"]
        key[0], key[1] = seed, index
        # numpy counts up before it makes a block.
        state["counter"][0] = block
        self._philox.state = self._state
        words: NDArray[np.uint64] = self._philox.random_raw(skipped + count)
        return words[skipped:] if skipped else words


_generator = _Generator()


def uniforms(seed: int, index: int, shape: tuple[int, ...], start: int = 0) -> NDArray[np.float32]:
    """Values of stream (seed, index) from word `start` on, in the given shape: float32 in [0,1), multiples of 2^-24.

    seed, index: 0 to 2^63 - 1.
    """
    values = np.empty(prod(shape), np.float32)
    _convert(_generator.words(seed, index, start, values.size), values)
    return values.reshape(shape)


def uniforms_of(streams: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The beginnings of streams (seed, index): [N, *shape]."""
    size, draw = prod(shape), _generator.words
    values = np.empty((len(streams), size), np.float32)
    words = np.empty((min(_TOGETHER, len(streams)), size), np.uint64)
    for first in range(0, len(streams), _TOGETHER):
        part = streams[first : first + _TOGETHER]
        for place, (seed, index) in enumerate(part):
            words[place] = draw(seed, index, 0, size)
        _convert(words[: len(part)], values[first : first + len(part)])
    return values.reshape(len(streams), *shape)


def uniforms_of_range(seed: int, first: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The beginnings of streams (seed, first) to (seed, first + count - 1): [count, *shape]."""
    return uniforms_of([(seed, first + i) for i in range(count)], shape)


def _convert(words: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
    """Words to uniforms of the same shape. The words are overwritten."""
    words >>= _SHIFT
    # Whole numbers of 32 bits become floats several at a time, those of 64 do not.
    values[...] = words.astype(np.int32)
    values *= _SCALE


def normals(uniforms: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard normals [N,...] from independent uniforms [N,2,...] in [0,1) by Box & Muller (1958)."""
    wide = uniforms.astype(np.float64)
    # 1 - u is in (0,1], so the logarithm is finite; on the grid of 2^-24 the largest normal is 5.77.
    result: NDArray[np.float64] = np.sqrt(-2 * np.log(1 - wide[:, 0])) * np.cos(2 * np.pi * wide[:, 1])
    return result
