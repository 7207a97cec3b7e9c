"""Samples of a raster role that part ways at a rounding: judged by one rule where a bundle is made and served.

Two computations of a net in float32 give probabilities that differ by their roundings, and where a uniform lies between
the two, they draw different levels. Either is right, and what follows in the image follows from it.
Letters: B samples, H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ancestral.v1 import bundle_pb2

Array = NDArray[Any]
Meaning: TypeAlias = bundle_pb2.Meaning.ValueType

# Largest |u - p| at which two float32 computations of p may draw different levels. Of two levels they differ by some
# 1e-6; a sum of the probabilities of 256 levels was seen to differ by 1.5e-5, and this is twice that.
NEAR_TIE = 3e-5
# By how much u is moved to see how close a draw was, smallest first.
_NUDGES = (1e-7, 1e-6, 1e-5, NEAR_TIE)


class Parting(NamedTuple):
    """A sample that differs from what was recorded: where first, row, column and channel, and how near a tie its draw
    there was: |u - p| is at most `within`, or None where it is no tie.
    """

    sample: int
    at: list[int]
    within: float | None


def partings(
    paint: Callable[[Mapping[Meaning, Array]], Array], inputs: Mapping[Meaning, Array], got: Array, wanted: Array
) -> Iterator[Parting]:
    """The samples in which `got` and `wanted`, both [B,H,W,C], differ, one after the other.

    inputs: of the role by meaning, those of whole images. `paint` gives the images [B,H,W,C] that the role paints of
    such. A draw is a tie if it is that of `wanted` when its uniform is moved a little, and at temperature 0, where
    uniforms have no say, when the temperature is.
    """
    for sample in map(int, np.flatnonzero((got != wanted).reshape(len(got), -1).any(axis=1))):
        differs = got[sample] != wanted[sample]
        pixel = int(np.argmax(differs))  # in raster order
        at = [int(i) for i in np.unravel_index(pixel, differs.shape)]
        level = wanted[sample].flat[pixel]
        within = next((nudge for nudge in _NUDGES if level in _redrawn(paint, inputs, sample, pixel, nudge)), None)
        yield Parting(sample, at, within)


def _redrawn(
    paint: Callable[[Mapping[Meaning, Array]], Array],
    inputs: Mapping[Meaning, Array],
    sample: int,
    pixel: int,
    nudge: float,
) -> Array:
    """What is drawn at a pixel with a uniform a little below and above its own: two values."""
    pair = {meaning: np.repeat(value[sample : sample + 1], 2, axis=0) for meaning, value in inputs.items()}
    uniforms = pair[bundle_pb2.MEANING_UNIFORMS].reshape(2, -1)
    if pair[bundle_pb2.MEANING_TEMPERATURE][0] > 0:
        uniforms[:, pixel] += np.array([-nudge, nudge], np.float32)
    else:
        # With very little temperature a uniform has a say only where two levels are as likely.
        pair[bundle_pb2.MEANING_TEMPERATURE][:] = nudge
        uniforms[:, pixel] = (0.01, 0.99)
    return paint(pair).reshape(2, -1)[:, pixel]
