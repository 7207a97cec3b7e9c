"""One cell of a table, or one file of a folder, as an image of the model: what is read, and what is refused.

Shapes: H rows, W columns, C channels of the model's images; H', W' of a picture.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ancestral_client import pictures
from ancestral_client.fitting import Fit, Misfit
from ancestral_client.replacing import reason

# Raw pixels begin as they like, so only what a picture's file must begin with tells it from raw pixels of that length.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")


class BadCell(ValueError):
    """A cell that is no image of the model; the message says why, and goes on after the name of the cell."""


Cell = bytes | Path | NDArray[Any] | BadCell | None
"""A picture's file or raw pixels; where such a file is; numbers; what is no image as it stands; nothing."""


@contextmanager
def quiet_pictures() -> Iterator[None]:
    """Keeps Pillow's warnings of single pictures from stderr. Of a process, not of a thread: around all that read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def image_of(cell: Cell, fit: Fit) -> tuple[NDArray[np.uint8], bool]:
    """The image [H,W,C] of a cell, and whether it is in colour and was read as grey. BadCell where it makes none."""
    try:
        return _image_of(cell, fit)
    except Misfit as error:
        raise BadCell(str(error)) from None


def _image_of(cell: Cell, fit: Fit) -> tuple[NDArray[np.uint8], bool]:
    pixels = math.prod(fit.shape)
    if isinstance(cell, np.ndarray):
        numbers = cell.reshape(fit.shape) if cell.shape == (pixels,) else cell
        return fit.image(numbers), fit.loses_colours(numbers)
    content = content_of(cell)
    if len(content) == pixels and not isinstance(cell, Path):
        raw = np.frombuffer(content, np.uint8).reshape(fit.shape)
        if not content.startswith(_SIGNATURES):
            return raw, False
        try:
            return fit.picture(_decoded(content, fit.shape))
        except (BadCell, Misfit):
            return raw, False
    return fit.picture(_decoded(content, fit.shape))


def _decoded(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture's file as grey [H',W'] or RGB [H',W',3]."""
    try:
        with Image.open(BytesIO(content)) as image:
            return pictures.pixels(image)
    except pictures.UnclearPicture as error:
        raise BadCell(str(error)) from None
    except UnidentifiedImageError:
        raise BadCell(
            f"holds {len(content)} bytes, which are no picture, nor the {math.prod(shape)} pixels of "
            f"{'×'.join(map(str, shape))}"
        ) from None
    except Exception as error:  # readers of pictures raise nearly anything
        raise BadCell(f"is a picture that cannot be read: {reason(error)}") from error


def content_of(cell: bytes | Path | BadCell | None) -> bytes:
    """A picture's file, or raw pixels: what the cell holds, or the file that it names; BadCell where it is nothing."""
    if cell is None:
        raise BadCell("is null")
    if isinstance(cell, BadCell):
        raise cell
    content = _read(cell) if isinstance(cell, Path) else cell
    if not content:
        raise BadCell("is empty")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadCell(f"names {path}, and there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        raise BadCell(f"names {path!s}, which cannot be read: {reason(error)}") from None
