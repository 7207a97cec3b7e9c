"""What the pixels of a picture mean: the one rule of trainings and clients, so that a model is given what it learned.

A picture is one of Pillow's, which whoever opened it has imported: nothing here does, for the server has no Pillow.
clients/python/docs/pictures.md has the rule as a table. Shapes: H rows, W columns.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GREY_MODES = ("1", "L", "LA")
# Cameras add previews, and how far away things are; editors add layers. The picture itself is the first of them.
_ONE_PICTURE = ("MPO", "PSD")
# Tags of TIFF and EXIF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274
_WHITE_IS_ZERO = 0  # a value of the tag _PHOTOMETRIC
# Each undoes what a camera that was turned did to the rows and columns of its picture.
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


def pixels(image: Any) -> NDArray[np.uint8]:
    """A picture as it is looked at: grey [H,W] or RGB [H,W,3], 0 to 255. UnclearPicture where that is not obvious.

    What is transparent shows a white ground; EXIF's orientation is heeded; wider integers become 8 bits.
    """
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


def is_transparent(image: Any) -> bool:
    """Whether the ground shows through a pixel of a picture."""
    if image.mode.startswith("I"):  # of which Pillow makes no RGBA
        return bool((np.asarray(image) == image.info.get("transparency")).any())
    return bool(image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255)


def _orientation(image: Any) -> int:
    """How the camera was held, 1 to 8; 1 where nothing, or nothing readable, says so."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def _eight_bits(image: Any) -> NDArray[np.uint8]:
    cut = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))  # Pillow keeps the high byte of 48 bits
    key = image.info.get("transparency")
    if cut and isinstance(key, tuple):
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if is_transparent(image):
        seen = image.convert("RGBA")
        ground = seen.copy()
        ground.paste("white", (0, 0, *seen.size))
        ground.alpha_composite(seen)
        levels = np.asarray(ground)[..., :3]
        return levels[..., 0] if image.mode in _GREY_MODES else levels
    levels = np.asarray(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    if cut and not levels.any():
        raise UnclearPicture("holds 16-bit values of at most 255, so it is black; save it with 8 bits if 255 is white")
    return levels


def _sixteen_bits(image: Any) -> NDArray[np.uint8]:
    """The levels of a grey picture of 12 or 16 bits."""
    tags = getattr(image, "tag_v2", {})
    bits = min(16, *tags.get(_BITS_PER_SAMPLE, ()), 16)  # Pillow reads 12 of them as they are
    values = np.asarray(image)
    if bits == 16 and 0 < values.max() <= 255:
        raise UnclearPicture(
            f"holds 16-bit values of at most {values.max()}, so it is black; save it with 8 bits if 255 is white"
        )
    levels = _scaled(values, bits)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds of 8 bits only
        levels = 255 - levels
    levels[values == image.info.get("transparency", -1)] = 255
    return levels


def _scaled(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    return levels


def _numbers(image: Any) -> NDArray[np.uint8]:
    """The levels of a picture of 32-bit numbers, if they can only be levels of 0 to 255, or integers of 16 bits."""
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnclearPicture("is a TIFF of 32 bits whose 0 is white; save it as PNG, or with 8 bits")
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "I" and low >= 0 and 255 < high <= 65535:
        return _scaled(values, 16)
    # A scale of 0 to 1 is as usual as that of 0 to 255.
    if not (low >= 0 and high <= 255 and (values == np.rint(values)).all() and (high > 1 or high == 0)):
        raise UnclearPicture(
            f"holds 32-bit {'integers' if image.mode == 'I' else 'floats'} from {low:g} to {high:g}; "
            "scale them to 0..255, round, and save with 8 bits"
        )
    return values.astype(np.uint8)
