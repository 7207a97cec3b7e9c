"""Images and arrays in files, for the command line: .npy, .npz, idx and pictures in; also picture grids out.

Shapes: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import json
import math
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ancestral_client import idx, pictures
from ancestral_client.fitting import Fit, Misfit
from ancestral_client.replacing import FileProblem, check_writable, reason, replacing

_ARRAYS = (".npy", ".npz")  # any other file is a picture, or by its first bytes idx
# An array in an archive that would fill the memory, and is packed as only one of nearly equal values is.
_BOMB_BYTES, _BOMB_RATIO = 2**30, 100

IMAGE_ARRAYS = ("images", "image", "x", "data", "arr_0")
"""What images are called in a file of several arrays; an earlier name wins, as in a training."""
_ENCRYPTED = 1  # of a zip entry's flags


def is_array(path: Path) -> bool:
    """Whether a file holds arrays, by its name, and not a picture."""
    return path.suffix.lower() in _ARRAYS


def holds_array(path: Path) -> bool:
    """Whether a file holds an array, by its name or, of one that is there, by its first bytes."""
    return is_array(path) or (path.is_file() and idx.is_idx(path))


def read_array(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array in a .npy file, in a .npz file (its only one, or the first of `names` in it), or in an idx file."""
    with _reading(path):
        if is_array(path):
            return _stored(path, names)
        if idx.is_idx(path):
            return idx.read(path)
        raise FileProblem(f"{path}: the name must end in .npy or .npz")


def read_images(path: Path) -> NDArray[np.uint8]:
    """The images in a .npy, .npz or idx file, of any shape; or the one of a picture, [H,W] if it is grey and [H,W,3] if
    not. `fitting.Fit` makes of them what a model takes.
    """
    array, _ = read_array_or_picture(path)
    if array.dtype != np.uint8:
        # Numbers of another type may be meant from 0 to 1, to 16 or to 255.
        raise FileProblem(f"{path}: holds {array.dtype}, must be uint8 with values 0 to 255; scale, round, and convert")
    return array


def read_array_or_picture(path: Path, names: tuple[str, ...] = IMAGE_ARRAYS) -> tuple[NDArray[Any], bool]:
    """As `read_images`, and whether it is a picture. An array may be of any numbers, and have one of these names."""
    with _reading(path):
        if is_array(path):
            return _stored(path, names), False
        if idx.is_idx(path):
            return idx.read(path), False
        return _picture(path), True


def decoded(name: str, content: bytes) -> NDArray[np.uint8]:
    """The pixels of a picture's file, [H,W] or [H,W,3]; `name` is what a FileProblem calls it."""
    with _told(name, expected="a picture"), Image.open(BytesIO(content)) as image:
        return pictures.pixels(image)


def read_image(path: Path, fit: Fit) -> tuple[NDArray[np.uint8], bool]:
    """The one image of a file, as the model's [H,W,C], and whether it lost its colours. FileProblem if it is none."""
    levels, is_picture = read_array_or_picture(path, ("given", "image", *IMAGE_ARRAYS))
    with _fitting(path):
        return fit.picture(levels) if is_picture else (fit.image(levels), fit.loses_colours(levels))


def read_mask(path: Path, fit: Fit) -> NDArray[np.bool_]:
    """Which pixels to keep, [H,W,C]: white in a picture, True in a .npy or .npz file, which may lack the channels.

    FileProblem if that is none or all: such a mask was meant otherwise, as one whose white is 1 and not 255.
    """
    with _reading(path):
        mask = _stored(path, ("known", "mask")) if is_array(path) else _brightness(path) > 127
    if mask.dtype != np.bool_:
        raise FileProblem(f"{path}: holds {mask.dtype}, must be bool, True for the pixels to keep")
    with _fitting(path):
        known = fit.mask(mask)
    if not known.any():
        raise FileProblem(f"{path}: keeps no pixel, so nothing is given; white pixels (True in an array) are kept")
    if known.all():
        raise FileProblem(f"{path}: keeps every pixel, so nothing is drawn; black pixels (False in an array) are")
    return known


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Makes a FileProblem about a file of what does not fit."""
    try:
        yield
    except Misfit as error:
        raise FileProblem(f"{path}: {error}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is read is a file, and whatever goes wrong a FileProblem."""
    with _told(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise FileProblem(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise FileProblem(f"{path}: is a pipe or a device; save what it holds to a file first, or pipe it into -")
        if not found.st_size:
            raise FileProblem(f"{path}: is empty")
        yield


@contextmanager
def _told(name: object, expected: str = "a .npy, a .npz or a picture") -> Iterator[None]:
    """Makes a FileProblem about `name` of whatever goes wrong: readers of pictures raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileProblem:
        raise
    except FileNotFoundError:
        raise FileProblem(f"{name}: no such file") from None
    except pictures.UnclearPicture as error:
        raise FileProblem(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise FileProblem(f"{name}: not {expected}") from None
    except Exception as error:
        raise FileProblem(f"{name}: cannot be read: {reason(error)}") from error


def _picture(path: Path) -> NDArray[np.uint8]:
    """A picture as grey [H,W] or as RGB [H,W,3]."""
    with Image.open(path) as image:
        return pictures.pixels(image)


def _brightness(path: Path) -> NDArray[np.uint8]:
    """A mask's picture as grey [H,W]. FileProblem where it is transparent: the white ground would keep pixels."""
    with Image.open(path) as image:
        levels = pictures.pixels(image)
        if pictures.is_transparent(image):
            raise FileProblem(f"{path}: has transparent pixels; flatten it: white keeps a pixel, black has it drawn")
    return pictures.with_channels(levels, 1)


def _stored(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """The array in a .npy file, or in a .npz file the only one or the first of `names`."""
    suffix = path.suffix.lower()
    # numpy takes whatever it does not know for a pickle, and speaks of that.
    with path.open("rb") as file:
        known = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    if not (known if suffix == ".npy" else is_zipfile(path)):
        raise FileProblem(f"{path}: is not a {suffix} file")
    if suffix == ".npy":
        with path.open("rb") as file:
            _check_header(path, file, path.stat().st_size)
            return np.asarray(np.load(path, allow_pickle=False))
    with ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        chosen = next(iter(members)) if len(members) == 1 else next((name for name in names if name in members), None)
        if chosen is None:
            held = ", ".join(members) or "nothing"
            raise FileProblem(f"{path}: holds {held}; expected one array, or one of {', '.join(names)}")
        entry = archive.getinfo(members[chosen])
        if entry.flag_bits & _ENCRYPTED:
            raise FileProblem(f"{path}: {chosen} is encrypted; save it without a password")
        if entry.file_size > max(_BOMB_BYTES, _BOMB_RATIO * entry.compress_size):
            raise FileProblem(
                f"{path}: {chosen} would take {entry.file_size} bytes of memory, packed into {entry.compress_size}"
            )
        with archive.open(entry) as member:
            _check_header(path, member, entry.file_size)
        with archive.open(entry) as member:
            return np.asarray(npy.read_array(member, allow_pickle=False))


def _check_header(path: Path, file: IO[bytes], size: int) -> None:
    """FileProblem unless a file of so many bytes can hold what its header speaks of: memory is taken for that."""
    major, _ = npy.read_magic(file)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise FileProblem(f"{path}: holds Python objects, which could run code; save an array of numbers")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > there or min(shape, default=0) < 0:
        raise FileProblem(f"{path}: is cut off or damaged: its header speaks of {claimed} bytes, it holds {there}")


def check_target(path: Path, *suffixes: str) -> None:
    """Raises FileProblem unless the file can be written: asked before a long call, not after it."""
    if path.suffix.lower() not in suffixes:
        raise FileProblem(f"{path}: the name must end in {' or '.join(suffixes)}")
    check_writable(path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | None]) -> None:
    """Writes the arrays that are not None: to .npz all by name, to .npy only the first."""
    with replacing(path) as file:
        save_arrays(file, path.suffix.lower(), arrays)


def save_arrays(file: IO[bytes], suffix: str, arrays: Mapping[str, NDArray[Any] | None]) -> None:
    """As `write_arrays`, to a file that is open."""
    present = {name: array for name, array in arrays.items() if array is not None}
    if suffix == ".npz":
        np.savez_compressed(file, allow_pickle=False, **present)
    else:
        np.save(_Plain(file), next(iter(present.values())))


def write_images(path: Path, images: NDArray[np.uint8], extra: Mapping[str, NDArray[Any] | None]) -> None:
    """Writes images [N,H,W,C] as a picture grid (.png), or as arrays (.npy; .npz together with `extra`)."""
    if path.suffix.lower() != ".png":
        write_arrays(path, {"images": images, **extra})
        return
    try:
        picture = Image.fromarray(pictures.grid(images))
    except pictures.UnclearPicture as error:
        raise FileProblem(f"{path}: {error}; write .npy or .npz instead") from None
    with replacing(path) as file:
        picture.save(file, "png")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, document: Any) -> None:
    write_text(path, json.dumps(document, indent=2))


class _Plain:
    """A file as numpy sees it that must not hand it to C, whose errors carry no reason."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write: Callable[[bytes], int] = file.write
