"""The noise of samples: stream (seed, index), and nothing else, so a sample is the same alone or in any batch."""

from __future__ import annotations

import threading
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows that are kept: of requests that name no seed, or the same, the first are drawn time and again.
MOST_KEPT = 64
MOST_KEPT_VALUES = 1024


class _Generator(threading.local):
    """A generator for each thread: one that is made anew gathers entropy first, and is three times as slow."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._start: Any = self._philox.state

    def words(self, seed: int, index: int, count: int) -> NDArray[np.uint64]:
        """The first words of stream (seed, index)."""
        key = self._start["state"]["key"]
        key[0], key[1] = seed, index
        self._philox.state = self._start
        return self._philox.random_raw(count)


_generator = _Generator()


def uniforms(seed: int, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The first values of stream (seed, index) in the given shape: float32 in [0,1), multiples of 2^-24.

    Philox 4×64 (Salmon et al. 2011) keyed by the pair; numpy keeps the raw words of a bit generator stable across
    versions, which it does not promise for the distributions built on them, so the top 24 bits are taken here.
    """
    words = _generator.words(seed, index, prod(shape))
    return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def uniforms_of_range(seed: int, first: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Streams (seed, first) to (seed, first + count - 1): [count, *shape], only to be read."""
    if count == 1 and prod(shape) <= MOST_KEPT_VALUES:
        return _one(seed, first, shape)
    rows = np.empty((count, *shape), np.float32)
    for i in range(count):
        rows[i] = uniforms(seed, first + i, shape)
    return rows


@lru_cache(MOST_KEPT)
def _one(seed: int, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    row = uniforms(seed, index, shape)[None]
    row.flags.writeable = False
    return row
