"""The noise of samples: stream (seed, index), and nothing else, so a sample is the same alone or in any batch."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The first values of stream (seed, index) in the given shape: float32 in [0,1), multiples of 2^-24.

    Philox 4×64 (Salmon et al. 2011) keyed by the pair; numpy keeps the raw words of a bit generator stable across
    versions, which it does not promise for the distributions built on them, so the top 24 bits are taken here.
    """
    words = np.random.Philox(key=np.array([seed, index], np.uint64)).random_raw(prod(shape))
    return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def uniforms_of_range(seed: int, first: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Streams (seed, first) to (seed, first + count - 1): [count, *shape]."""
    rows = np.empty((count, *shape), np.float32)
    for i in range(count):
        rows[i] = uniforms(seed, first + i, shape)
    return rows
