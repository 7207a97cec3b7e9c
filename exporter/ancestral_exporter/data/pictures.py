"""One picture file as an array of bytes, whatever its kind: palettes, transparency, 16 bits, CMYK, EXIF orientation."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ancestral.text import one_line
from ancestral_exporter.errors import DataError

Colour = Literal["grey", "rgb"]
Resize = Literal["crop", "fit", "stretch"]


def decode(content: bytes, name: str) -> Image.Image:
    """A picture as people see it, mode L or RGB. Raises DataError that names the picture.

    Orientation is that of EXIF; transparent parts show a white ground; palettes and CMYK become RGB; 16 bits become 8.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures above 89 million pixels, and refuses those above twice as many; and it warns of
            # damage that hinders nobody from seeing the picture, as of EXIF.
            warnings.simplefilter("ignore")
            return _seen(Image.open(io.BytesIO(content)), name)
    except DataError:
        raise
    except Exception as error:  # hostile files may raise anything in Pillow, wherever it looks at them
        raise DataError(f"{name}: is no picture that can be read ({_told(error)})") from error


def _seen(picture: Image.Image, name: str) -> Image.Image:
    frames = getattr(picture, "n_frames", 1)
    # Phones write further views of the same picture behind it: small ones, or how far away things are.
    if frames > 1 and picture.format != "MPO":
        raise DataError(f"{name}: has {frames} frames; which one is meant is not known")
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):
        turned = _eight_bits(turned, name, _bits(picture))
    if turned.mode == "F":
        raise DataError(f"{name}: has floating-point intensities, whose range is not known; save it with 8 bits")
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        ground = Image.new("RGBA", turned.size, "white")
        turned = Image.alpha_composite(ground, turned).convert("RGB")
    return turned if turned.mode in ("L", "RGB") else turned.convert("L" if turned.mode == "1" else "RGB")


def _bits(picture: Image.Image) -> int:
    """How many bits the intensities of a picture of more than 8 have; Pillow reads 12 of them without scaling."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return min(16, *map(int, picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))))
    return 16


def _eight_bits(picture: Image.Image, name: str, bits: int) -> Image.Image:
    """The upper 8 of so many bits."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{name}: has intensities {values.min()} to {values.max()}, outside of 16 bits")
    if bits == 16 and 0 < values.max() <= 255:
        raise DataError(
            f"{name}: has intensities of at most {values.max()} in 16 bits or more, so it is black; save it with "
            "8 bits if 255 is white"
        )
    return Image.fromarray(np.rint(values * (255 / (2**bits - 1))).astype(np.uint8))


def is_grey(picture: Image.Image) -> bool:
    """Whether a picture has no colour: one channel, or three equal ones."""
    if picture.mode == "L":
        return True
    values = np.asarray(picture)
    return bool((values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all())


def as_array(picture: Image.Image, size: tuple[int, int], colour: Colour, how: Resize) -> npt.NDArray[np.uint8]:
    """[H,W,C] uint8 at size (H, W).

    crop: the middle of the picture, scaled to cover the size; fit: the whole picture on black; stretch: as it comes.
    """
    picture = picture.convert("L" if colour == "grey" else "RGB")
    wanted = (size[1], size[0])
    if picture.size != wanted:
        if how == "crop":
            picture = ImageOps.fit(picture, wanted, Image.Resampling.LANCZOS)
        elif how == "fit":
            picture = ImageOps.pad(picture, wanted, Image.Resampling.LANCZOS, color=0)
        else:
            picture = picture.resize(wanted, Image.Resampling.LANCZOS)
    values = np.asarray(picture, np.uint8)
    return values[..., None] if values.ndim == 2 else values


def _told(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # which names an object in memory
        return "of no format that Pillow knows"
    return f"{type(error).__name__}: {one_line(error)}"
