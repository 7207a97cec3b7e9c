"""Ways through the latent space of a model whose prior is a standard normal. Pure.

Shapes: Z latent dimensions; every way is [steps,Z] float32, for `decode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ancestral_client import _arguments
from ancestral_client.errors import invalid

Latents = NDArray[np.float32]
Curve = Callable[[Latents, Latents, int], Latents]

# Ends so nearly parallel that the angle between them is lost in float32, or opposite, with no shortest way.
_FLAT_SINE = 1e-4


def linear(begin: Latents, end: Latents, steps: int) -> Latents:
    """The straight way from one latent [Z] to another, both included."""
    share = np.linspace(0, 1, steps)[:, np.newaxis]
    return ((1 - share) * begin + share * end).astype(np.float32)


def spherical(begin: Latents, end: Latents, steps: int) -> Latents:
    """The way around 0 from one latent [Z] to another, both included (slerp, Shoemake 1985); straight where none is."""
    lengths = float(np.linalg.norm(begin)) * float(np.linalg.norm(end))
    angle = math.acos(min(max(float(begin @ end) / lengths, -1.0), 1.0)) if lengths else 0.0
    if math.sin(angle) < _FLAT_SINE:
        return linear(begin, end, steps)
    share = np.linspace(0, 1, steps)[:, np.newaxis]
    way = (np.sin((1 - share) * angle) * begin + np.sin(share * angle) * end) / math.sin(angle)
    return np.asarray(way, np.float32)


_CURVES: dict[str, Curve] = {"spherical": spherical, "linear": linear}


def curve(path: str) -> Curve:
    """`spherical` or `linear` by name; InvalidArgument for another."""
    if not isinstance(path, str) or path not in _CURVES:
        raise invalid("path", f"is {path!r}; must be one of {', '.join(map(repr, _CURVES))}")
    return _CURVES[path]


def along(latent: Latents, dimension: int, steps: int, span: float) -> Latents:
    """A latent [Z] with one of its dimensions going from -`span` to `span`."""
    way = np.tile(latent, (steps, 1)).astype(np.float32)
    way[:, _arguments.dimension_of("dimension", dimension, len(latent))] = np.linspace(-span, span, steps)
    return way


def plane(size: int, dimensions: tuple[int, int], steps: int) -> Latents:
    """[steps · steps, Z]: quantiles of the prior in two of Z dimensions, row by row, and 0 in the others."""
    if size < 2:
        raise invalid("model", f"has {size} latent dimensions; a plane needs 2")
    two = isinstance(dimensions, tuple | list) and len(dimensions) == 2
    if not two or dimensions[0] == dimensions[1]:
        raise invalid("dimensions", f"is {dimensions!r}; must be two different ones, 0 to {size - 1}")
    across, down = (_arguments.dimension_of("dimensions", dimension, size) for dimension in dimensions)
    quantiles = [NormalDist().inv_cdf((step + 0.5) / steps) for step in range(steps)]
    found = np.zeros((steps, steps, size), np.float32)
    found[..., across] = np.asarray(quantiles)[np.newaxis, :]
    found[..., down] = np.asarray(quantiles)[:, np.newaxis]
    return found.reshape(-1, size)
