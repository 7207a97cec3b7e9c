"""What the pixels of a picture mean: 8 bits, grey or RGB, where that is obvious; otherwise what to do about it.

clients/python/docs/pictures.md has the table of what is taken and what is refused. Shapes: H rows, W columns.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

GREY = 128
"""What is not there."""
CHANNELS = (1, 3)
"""Of images that make a picture."""
_GAP = 1  # pixels between tiles, before they are enlarged
_TILE = 64  # small images are enlarged to about this many pixels, so that 8x8 digits can be seen
_GREY = ("1", "L", "LA", "La")
# Cameras add previews, editors add layers; the picture itself is the first of them.
_ONE_PICTURE = ("MPO", "PSD")
_WHITE_IS_ZERO = 0  # of TIFF's tag PhotometricInterpretation, 262
_PHOTOMETRIC = 262
# As numpy has them: each undoes what a camera that was turned did to the rows and columns of its picture.
_TURNED: dict[int, Any] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


class UnclearPicture(ValueError):
    """A picture whose pixels may mean several things; the message says how to make it one that means one thing."""


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A picture as it is looked at: grey [H,W] or RGB [H,W,3], 0 to 255. UnclearPicture where that is not obvious."""
    if getattr(image, "is_animated", False) and image.format not in _ONE_PICTURE:
        raise UnclearPicture("holds several pictures; save the one that is meant by itself")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        levels = _sixteen_bits(image)
    elif image.mode in ("I", "F"):
        levels = _numbers(image)
    else:
        levels = _eight_bits(image)
    turn = _TURNED.get(_orientation(image))
    return np.ascontiguousarray(levels if turn is None else turn(levels))


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


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8; 1 where nothing, or nothing readable, says so."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    cut = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise UnclearPicture("has transparent pixels; flatten it on a background of the right colour first")
    levels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    if cut and not levels.any():  # Pillow keeps the high byte of 48-bit colours
        raise UnclearPicture("holds 16-bit values of at most 255, so it is black; save it with 8 bits if 255 is white")
    return levels


def _sixteen_bits(image: Image.Image) -> NDArray[np.uint8]:
    """The high byte, as Pillow has it of colours."""
    if "transparency" in image.info:
        raise UnclearPicture("has 16 bits and a transparent grey; save it with 8 bits and without transparency")
    _refuse_white_is_zero(image)
    bits = 12 if any("I;12" in str(tile.args) for tile in getattr(image, "tile", ())) else 16
    values = np.asarray(image)
    if 0 < values.max() <= 255:
        raise UnclearPicture(
            f"holds {bits}-bit values of at most {values.max()}, so it is black; save it with 8 bits if 255 is white"
        )
    return (values >> (bits - 8)).astype(np.uint8)


def _numbers(image: Image.Image) -> NDArray[np.uint8]:
    """The values of a picture of 32-bit numbers, if they can only be levels of 0 to 255."""
    _refuse_white_is_zero(image)
    values = np.asarray(image)
    low, high = values.min(), values.max()
    # A scale of 0 to 1 is as usual as that of 0 to 255.
    if not (low >= 0 and high <= 255 and (values == np.rint(values)).all() and (high > 1 or high == 0)):
        raise UnclearPicture(
            f"holds 32-bit {'integers' if image.mode == 'I' else 'floats'} from {low:g} to {high:g}; "
            "scale them to 0..255, round, and save with 8 bits"
        )
    return values.astype(np.uint8)


def _refuse_white_is_zero(image: Image.Image) -> None:
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds of 8 bits only
        raise UnclearPicture("is a TIFF whose 0 is white; save it as PNG, or with 8 bits")


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
