"""Images and arrays in files, for the command line: .npy, .npz and PNG in; also picture grids out.

Shapes: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ancestral_client import _checks

_Scalar = TypeVar("_Scalar", bound=np.generic)

GREY = 128  # what is not there
_GAP = 1  # pixels between tiles, before they are enlarged
_ARRAYS = (".npy", ".npz")  # any other file is a picture
_TILE = 64  # small images are enlarged to about this many pixels, so that 8x8 digits can be seen


class FileProblem(Exception):
    """A file cannot be read or written as asked; the message names it."""


def read_array(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array in a .npy file, in a .npz file (its only one, or the first of `names` in it) or in a PNG picture.

    A grey picture is [H,W], any other [H,W,3].
    """
    with _reading(path):
        return _stored(path, names) if path.suffix in _ARRAYS else _picture(path)


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The one image of a file, as the model's [H,W,C] uint8. FileProblem if its size is another.

    A picture may be of any kind: it becomes grey for C = 1 and RGB for C = 3.
    """
    with _reading(path):
        if path.suffix in _ARRAYS:
            array = _stored(path, ("given", "image", "images"))
        else:
            array = _picture(path, "RGB" if shape[2] == 3 else "L")
    if array.dtype != np.uint8:
        raise FileProblem(f"{path}: holds {array.dtype}, must be uint8 with values 0 to 255")
    return _only(path, array, _checks.image_batch(array, shape), shape)


def read_mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which pixels to keep, [H,W,C]: white in a picture, True in a .npy or .npz file, which may lack the channels.

    FileProblem if that is none or all: such a mask was meant otherwise, as one whose white is 1 and not 255.
    """
    with _reading(path):
        mask = _stored(path, ("known", "mask")) if path.suffix in _ARRAYS else _picture(path, "L") > 127
    if mask.dtype != np.bool_:
        raise FileProblem(f"{path}: holds {mask.dtype}, must be bool, True for the pixels to keep")
    known = _only(path, mask, _checks.mask_batch(mask, shape), shape)
    if not known.any():
        raise FileProblem(f"{path}: keeps no pixel, so nothing is given; white pixels (True in an array) are kept")
    if known.all():
        raise FileProblem(f"{path}: keeps every pixel, so nothing is drawn; black pixels (False in an array) are")
    return known


def _only(
    path: Path, array: NDArray[Any], batch: NDArray[_Scalar] | None, shape: tuple[int, int, int]
) -> NDArray[_Scalar]:
    """The image of the `batch` that `array` makes; FileProblem unless it fits the `shape` and holds one."""
    if batch is None or len(batch) != 1:
        raise FileProblem(f"{path}: has shape {list(array.shape)}, the model's images have {list(shape)}")
    image: NDArray[_Scalar] = batch[0]
    return image


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes a FileProblem of whatever goes wrong while a file is read."""
    try:
        yield
    except FileNotFoundError:
        raise FileProblem(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise FileProblem(f"{path}: not a .npy, a .npz or a picture") from None
    except (OSError, ValueError, EOFError) as error:
        raise FileProblem(f"{path}: cannot be read: {error}") from error


def _picture(path: Path, mode: str | None = None) -> NDArray[np.uint8]:
    """A picture as grey [H,W] (mode "L") or as [H,W,3] ("RGB"); without a mode, as what it is."""
    with Image.open(path) as opened:
        image: Image.Image = opened
        if image.mode.startswith("I"):  # 16 bits: the high byte, as of colours; convert() would cut off above 255
            image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
        return np.asarray(image.convert(mode or ("L" if image.mode in ("1", "L", "LA") else "RGB")))


def _stored(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array in a .npy file, or in a .npz file the only one or the first of `names`."""
    # numpy takes whatever it does not know for a pickle, and speaks of that.
    with path.open("rb") as file:
        is_array = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
    if not (is_array if path.suffix == ".npy" else is_zipfile(path)):
        raise FileProblem(f"{path}: is not a {path.suffix} file")
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) == 1:
            return np.asarray(archive[archive.files[0]])
        for name in names:
            if name in archive.files:
                return np.asarray(archive[name])
        raise FileProblem(f"{path}: holds {', '.join(archive.files)}; expected one array, or one of {', '.join(names)}")


def check_target(path: Path, *suffixes: str) -> None:
    """Raises FileProblem unless the file can be written: asked before a long call, not after it."""
    if path.suffix not in suffixes:
        raise FileProblem(f"{path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileProblem(f"{path}: there is no folder {path.parent}")


def check_holds_all(path: Path, option: str, asked: bool) -> None:
    """Raises FileProblem if the file would lack what was `asked` for by an option: a .npy holds one array."""
    if asked and path.suffix != ".npz":
        raise FileProblem(f"{option} needs --out .npz: {path} holds one array")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | None]) -> None:
    """Writes the arrays that are not None: to .npz all by name, to .npy only the first."""
    present = {name: array for name, array in arrays.items() if array is not None}
    try:
        if path.suffix == ".npz":
            np.savez_compressed(path, **present)  # type: ignore[arg-type]
        else:
            np.save(path, next(iter(present.values())))
    except OSError as error:
        raise FileProblem(f"{path}: cannot be written: {error.strerror}") from error


def write_images(path: Path, images: NDArray[np.uint8], extra: Mapping[str, NDArray[Any] | None]) -> None:
    """Writes images [N,H,W,C] as a picture grid (.png), or as arrays (.npy; .npz together with `extra`)."""
    if path.suffix != ".png":
        write_arrays(path, {"images": images, **extra})
        return
    try:
        Image.fromarray(grid(images)).save(path)
    except OSError as error:
        raise FileProblem(f"{path}: cannot be written: {error.strerror}") from error


def grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """The images [N,H,W,C] in rows of `columns` (by default about a square), small ones enlarged.

    The picture is [H',W'] for C = 1 and [H',W',3] for C = 3.
    """
    count, height, width, channels = images.shape
    if channels not in (1, 3):
        raise FileProblem(f"images with {channels} channels make no picture; write .npy or .npz instead")
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
