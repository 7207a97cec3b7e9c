"""Colour images made up so that their entropy is known: against it a likelihood can be judged, not only compared.

In raster order, R before G before B, each value is a sum of earlier ones and noise, modulo K (outside the image is 0):

    R = R of the pixel to the left             + noise
    G = R of the same pixel + G of that above  + noise
    B = R and G of the same pixel              + noise

Given all before it, a value is thus a known shift of its noise, which is distributed as NOISE whatever came before. By
the chain rule the entropy of an image is exactly H·W·C times that of the noise. Every step takes something else to see:
the horizontal stack, the vertical one, the channels before in the same pixel. What a model misses costs it likelihood.

Letters: N images, H, W, C = 3 image axes, K levels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ancestral_exporter.models.base import ImageShape

SHAPE = ImageShape(6, 6, 3, 4)
# The probability of each of the K values of the noise.
NOISE = (0.7, 0.15, 0.1, 0.05)
BITS_PER_DIM = -sum(p * math.log2(p) for p in NOISE)  # 1.319, the exact entropy per value

Levels = npt.NDArray[np.integer[Any]]  # [N,H,W,C] of 0..K-1


def generate(count: int, random: np.random.Generator) -> Levels:
    """Levels [count,H,W,C] of independent images."""
    noise = random.choice(SHAPE.levels, (count, SHAPE.height, SHAPE.width, SHAPE.channels), p=NOISE)
    red = noise[..., 0].cumsum(axis=2)
    green = (red + noise[..., 1]).cumsum(axis=1)
    return np.stack([red, green, red + green + noise[..., 2]], axis=-1) % SHAPE.levels


def noise_of(levels: Levels) -> Levels:
    """The noise [N,H,W,C] that `generate` must have drawn to make these levels; any levels have one."""
    red, green, blue = np.moveaxis(levels.astype(np.int64), -1, 0)
    left = np.pad(red, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    above = np.pad(green, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return np.stack([red - left, green - red - above, blue - red - green], axis=-1) % SHAPE.levels


def log_probability(levels: Levels) -> npt.NDArray[np.float64]:
    """The exact natural log of the probability [N] of each image."""
    logs = np.log(NOISE)[noise_of(levels)]
    return np.asarray(logs.sum(axis=(1, 2, 3)))
