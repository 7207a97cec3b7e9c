"""Pictures as levels, and levels as pictures: their channels, their size, many in a grid.

What a picture's pixels mean says `ancestral.pictures`, by which a training reads its pictures too, and
clients/python/docs/pictures.md has it as a table. Shapes: H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ancestral.pictures import UnclearPicture, is_transparent, pixels

__all__ = [
    "CHANNELS",
    "GREY",
    "UnclearPicture",
    "grid",
    "in_colour",
    "is_transparent",
    "picture",
    "pixels",
    "resized",
    "with_channels",
]

GREY = 128
"""What is not there."""
CHANNELS = (1, 3)
"""Of images that make a picture."""
_GAP = 1  # pixels between tiles, before they are enlarged
_TILE = 64  # small images are enlarged to about this many pixels, so that 8x8 digits can be seen


def in_colour(levels: NDArray[np.uint8]) -> bool:
    """Whether the pixels [H,W] or [H,W,3] of a picture are other than grey."""
    return levels.ndim == 3 and not (levels == levels[..., :1]).all()


def with_channels(levels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """The pixels [H,W] or [H,W,3] of a picture for a model with so many channels; colours become their brightness."""
    if channels == 1 and levels.ndim == 3:
        return np.asarray(Image.fromarray(levels).convert("L")) if in_colour(levels) else levels[..., 0]
    if channels == 3 and levels.ndim == 2:
        return np.repeat(levels[..., np.newaxis], 3, axis=2)
    return levels


def resized(
    levels: NDArray[np.uint8], size: tuple[int, int], how: Literal["crop", "fit", "stretch"]
) -> NDArray[np.uint8]:
    """Levels [H',W'] or [H',W',C] as [H,W] or [H,W,C], `size` being (H, W); UnclearPicture unless C is 1 or 3.

    crop: the middle, scaled to cover the size, as recipes for one's own images have it; fit: the whole, on black;
    stretch: as it comes.
    """
    wanted, shown = (size[1], size[0]), picture(levels)
    if how == "crop":
        scaled = ImageOps.fit(shown, wanted, Image.Resampling.LANCZOS)
    elif how == "fit":
        scaled = ImageOps.pad(shown, wanted, Image.Resampling.LANCZOS, color=0)
    else:
        scaled = shown.resize(wanted, Image.Resampling.LANCZOS)
    return np.asarray(scaled)


def grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """The images [N,H,W,C] in rows of `columns` (by default about a square), small ones enlarged.

    The picture is [H',W'] for C = 1 and [H',W',3] for C = 3; UnclearPicture for other C.
    """
    count, height, width, channels = images.shape
    if channels not in CHANNELS:
        raise UnclearPicture(f"images with {channels} channels make no picture")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), GREY, np.uint8)
    for index, image in enumerate(images):
        top = (index // columns) * (height + _GAP) + _GAP
        left = (index % columns) * (width + _GAP) + _GAP
        canvas[top : top + height, left : left + width] = image
    factor = max(1, _TILE // max(height, width))
    large = canvas.repeat(factor, axis=0).repeat(factor, axis=1)
    return large[..., 0] if channels == 1 else large


def picture(levels: NDArray[np.uint8]) -> Image.Image:
    """The pixels [H,W], [H,W,1] or [H,W,3] as a picture; UnclearPicture for other C."""
    if levels.ndim == 3 and levels.shape[2] not in CHANNELS:
        raise UnclearPicture(f"images with {levels.shape[2]} channels make no picture")
    return Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)
