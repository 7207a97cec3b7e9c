"""Pixels between Python and the page: base64 of their bytes in raster order. Pure.

Shapes: H rows, W columns, C channels.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
"""(H, W, C)."""


def packed(array: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """The bytes of an array for the page."""
    return b64encode(array.tobytes()).decode("ascii")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of which perhaps only some pixels are known."""

    pixels: NDArray[np.uint8]
    """[H,W,C]; 0 where it is not known."""
    known: NDArray[np.bool_]
    """[H,W]."""

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Self:
        """A whole image [H,W,C]."""
        return cls(image, np.ones(image.shape[:2], np.bool_))

    @classmethod
    def blank(cls, shape: Shape, *, known: bool) -> Self:
        """All black, or nothing known."""
        return cls(np.zeros(shape, np.uint8), np.full(shape[:2], known))

    @classmethod
    def sent(cls, event: Any, shape: Shape) -> Self:
        """What a page sent of a drawing of (H, W, C); ValueError where it is no such thing."""
        try:
            pixels = np.frombuffer(b64decode(event["pixels"], validate=True), np.uint8).reshape(shape)
            known = np.frombuffer(b64decode(event["known"], validate=True), np.uint8).reshape(shape[:2]) != 0
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ValueError(f"the page sent no drawing of {'×'.join(map(str, shape))}: {error}") from error
        return cls(np.where(known[..., np.newaxis], pixels, np.uint8(0)), known)
