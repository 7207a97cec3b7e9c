"""One picture file as a picture of 8 bits, and that as an array of a size and colour."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ancestral.pictures import UnclearPicture, pixels
from ancestral.text import one_line
from ancestral_exporter.errors import DataError

Colour = Literal["grey", "rgb"]
Resize = Literal["crop", "fit", "stretch"]


def decode(content: bytes, name: str) -> Image.Image:
    """A picture as people see it, mode L or RGB. Raises DataError that names the picture.

    `ancestral.pictures` says what its pixels mean, here and where a client reads one for the trained model.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures above 89 million pixels, and refuses those above twice as many; and it warns of
            # damage that hinders nobody from seeing the picture, as of EXIF.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as picture:
                return Image.fromarray(pixels(picture))
    except UnclearPicture as error:
        raise DataError(f"{name}: {error}") from None
    except Exception as error:  # hostile files may raise anything in Pillow, wherever it looks at them
        raise DataError(f"{name}: is no picture that can be read ({_told(error)})") from error


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
