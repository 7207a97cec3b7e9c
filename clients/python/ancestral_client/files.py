"""Images and arrays in files, for the command line: .npy, .npz and PNG in; also picture grids out.

Shapes: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

GREY = 128  # what is not there
_GAP = 1  # pixels between tiles, before they are enlarged
_TILE = 64  # small images are enlarged to about this many pixels, so that 8x8 digits can be seen


class FileProblem(Exception):
    """A file cannot be read or written as asked; the message names it."""


def read_array(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array in a .npy file, in a .npz file (its only one, or the first of `names` in it) or in a PNG picture.

    A grey picture is [H,W], any other [H,W,3].
    """
    try:
        if path.suffix == ".npz":
            return _from_npz(path, names)
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            return np.asarray(array)
        with Image.open(path) as image:
            return np.asarray(
                image if image.mode == "L" else image.convert("L" if image.mode in ("1", "LA") else "RGB")
            )
    except FileNotFoundError:
        raise FileProblem(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise FileProblem(f"{path}: not a .npy, a .npz or a picture") from None
    except (OSError, ValueError, EOFError) as error:
        raise FileProblem(f"{path}: cannot be read: {error}") from error


def read_picture(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The image [H,W,C] uint8 in a picture of any kind, a .npy or a .npz file. FileProblem if its size is another."""
    if path.suffix in (".npy", ".npz"):
        array = read_array(path, ("given", "image", "images"))
        if array.dtype != np.uint8:
            raise FileProblem(f"{path}: holds {array.dtype}, must be uint8 with values 0 to 255")
    else:
        array = _pixels(path, "RGB" if shape[2] == 3 else "L")
    if array.size != math.prod(shape) or (array.shape[-3:-1] != shape[:2] and array.shape[:2] != shape[:2]):
        raise FileProblem(f"{path}: has shape {list(array.shape)}, the model's images have {list(shape)}")
    return array.reshape(shape)


def read_mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which pixels to keep, [H,W,C]: white in a picture, True in a .npy or a .npz file, which may lack the channels."""
    if path.suffix in (".npy", ".npz"):
        mask = read_array(path, ("known", "mask"))
        if mask.dtype != np.bool_:
            raise FileProblem(f"{path}: holds {mask.dtype}, must be bool, True for the pixels to keep")
    else:
        mask = _pixels(path, "L") > 127
    if mask.ndim == 2:
        mask = mask[..., np.newaxis]
    if mask.shape not in (shape, (*shape[:2], 1)):
        raise FileProblem(f"{path}: has shape {list(mask.shape)}, the model's images have {list(shape)}")
    return np.broadcast_to(mask, shape)


def _pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    """A picture's pixels as grey [H,W] (mode "L") or as [H,W,3] ("RGB")."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except FileNotFoundError:
        raise FileProblem(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise FileProblem(f"{path}: not a .npy, a .npz or a picture") from None
    except OSError as error:
        raise FileProblem(f"{path}: cannot be read: {error}") from error


def _from_npz(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
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
