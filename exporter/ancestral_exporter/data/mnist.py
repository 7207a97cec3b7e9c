"""MNIST from the original idx files.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import difflib
import gzip
import math
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ancestral_exporter.data.dataset import DYNAMIC, Dataset, Images, Labels, Split, dynamically_binarised
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import DataError
from ancestral_exporter.models.base import ImageShape

SHAPE = ImageShape(28, 28, 1, 2)
MNIST_VALIDATION = 10_000

MNIST_HELP = (
    "MNIST is the 28×28 handwritten digits of LeCun, Cortes and Burges; get its four idx files "
    "(train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each raw or "
    ".gz) from a mirror such as https://ossci-datasets.s3.amazonaws.com/mnist/ and pass --data DIR, a folder that "
    "holds them, itself or up to three folders further down"
)
# torchvision's root/mnist/MNIST/raw is three folders down; deeper, a search of a whole home would take too long.
_SEARCH_DEPTH = 3
_MNIST_PARTS = {
    (part, kind): f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
}
MNIST_CLASSES = 10


def load(settings: DataSettings, folder: Path | None) -> Dataset:
    """MNIST from the original idx files in `folder` or below it; the last 10,000 of the 60,000 validate.

    Raises DataError that names the file when one is missing or is not what it should be.
    """
    if folder is None:
        raise DataError(f"this recipe needs the MNIST files: {MNIST_HELP}")
    paths = find_idx(folder, tuple(_MNIST_PARTS.values()))
    train_images, train_labels = _idx_pair(paths, "train")
    test_images, test_labels = _idx_pair(paths, "t10k")
    if len(train_images) <= MNIST_VALIDATION:
        raise DataError(
            f"{paths[_MNIST_PARTS['train', 'images-idx3']]}: holds {len(train_images)} images, but {MNIST_VALIDATION} "
            "of them are for validation: more are needed"
        )
    train, validation, test = dynamically_binarised(
        Split(train_images[:-MNIST_VALIDATION], train_labels[:-MNIST_VALIDATION]),
        Split(train_images[-MNIST_VALIDATION:], train_labels[-MNIST_VALIDATION:]),
        Split(test_images, test_labels),
    )
    return Dataset(
        name="mnist",
        description="MNIST handwritten digits, 28×28; 50,000 train, the last 10,000 of the 60,000 validation, "
        "10,000 test",
        binarisation=DYNAMIC,
        image=SHAPE,
        train=train,
        validation=validation,
        test=test,
    )


def _idx_pair(paths: dict[str, Path], part: str) -> tuple[Images, Labels]:
    """Images [N,28,28,1] and labels [N] of one part, "train" or "t10k"."""
    images_path = paths[_MNIST_PARTS[part, "images-idx3"]]
    labels_path = paths[_MNIST_PARTS[part, "labels-idx1"]]
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images are {images.shape[1]}×{images.shape[2]}, not 28×28")
    if len(images) == 0:
        raise DataError(f"{images_path}: holds 0 images, at least 1 is needed; download it again")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
    if labels.max() >= MNIST_CLASSES:
        raise DataError(f"{labels_path}: holds label {labels.max()}, they must be 0 to {MNIST_CLASSES - 1}")
    return images[..., None], labels.astype(np.int64)


def find_idx(folder: Path, names: tuple[str, ...], help_: str = MNIST_HELP) -> dict[str, Path]:
    """The paths of these files by name, which may be raw or .gz and lie in the folder or below it, as people have them.

    A dot may stand for a dash, capitals for small letters, and a folder of a file's own name around it. The files are
    taken from the shallowest place that has all of them. Where no place has all, they may be scattered, but each must
    be there once. Where a folder is called mnist, only it and `folder` itself are looked at. Raises DataError that
    names what is missing, what lies near and `help_`, or the places between which there is no choice.
    """
    wanted = {_plain(name): name for name in names}
    seen = list(_files_below(folder, _SEARCH_DEPTH))
    # By place, by wanted name: the raw file before the .gz, as it needs no unpacking.
    places: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for path in sorted(seen, key=lambda path: (_plain(path.name) != path.name.lower(), path)):
        if (plain := _plain(path.name)) in wanted:
            place = path.parent.parent if _plain(path.parent.name) == plain and path.parent != folder else path.parent
            places[place].setdefault(wanted[plain], path)
    called = [place for place in places if "mnist" in map(str.lower, place.relative_to(folder).parts)]
    if called:
        # Fashion-MNIST and others have the same file names: what lies beside a folder called mnist is none of it.
        places = defaultdict(dict, {place: places[place] for place in places if place in (folder, *called)})
    whole = sorted(place for place, found in places.items() if len(found) == len(names))
    nearest = [place for place in whole if len(place.parts) == min(len(other.parts) for other in whole)]
    if len(nearest) > 1:
        there = ", ".join(map(str, nearest))
        raise DataError(f"{folder}: there is more than one set of such files; pass one of them as --data: {there}")
    if nearest:
        return places[nearest[0]]
    scattered = {name: [found[name] for found in places.values() if name in found] for name in names}
    for name, paths in scattered.items():
        if len(paths) > 1:
            there = ", ".join(map(str, sorted(paths)))
            raise DataError(f"{folder}: {name} is there more than once, and no folder has all files: {there}")
    for name, paths in scattered.items():
        if not paths:
            raise DataError(
                f"{folder / name}: no such file (nor {name}.gz, nor either below {folder}); "
                f"{_what_lies_there(folder, name, seen)}; {help_}"
            )
    return {name: paths[0] for name, paths in scattered.items()}


def holds(folder: Path, ending: str) -> bool:
    """Whether a file whose name ends so, but for dots and dashes, lies where `find_idx` looks."""
    return any(_plain(path.name).endswith(_plain(ending)) for path in _files_below(folder, _SEARCH_DEPTH))


def holds_idx(folder: Path) -> bool:
    """Whether idx files of images lie in the folder, or as far below it as `find_idx` looks."""
    return holds(folder, "-images-idx3-ubyte")


def _plain(name: str) -> str:
    """How a file's name reads in small letters, with dashes, without .gz."""
    return re.sub("[._ ]", "-", name.lower().removesuffix(".gz"))


def _files_below(folder: Path, depth: int) -> Iterator[Path]:
    """Files in the folder and in folders so many levels below it, hidden ones and unreadable folders left out."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = Path(parent)
        deep = len(here.relative_to(folder).parts) >= depth
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        yield from (here / name for name in files if not name.startswith("."))


def _what_lies_there(folder: Path, name: str, seen: list[Path]) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}" if not folder.exists() else f"{folder} is no folder"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder} cannot be read: Permission denied"
    if not seen:
        return "no file lies there"
    by_name = {_plain(path.name): str(path.relative_to(folder)) for path in sorted(seen)}
    near = difflib.get_close_matches(_plain(name), by_name, n=3, cutoff=0.5)
    shown = [by_name[entry] for entry in near] or sorted(by_name.values())[:3]
    return f"{'near it' if near else 'there'} lies {', '.join(shown)}" + (" and more" if len(seen) > len(shown) else "")


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes with so many dimensions, gunzipped where it is gzip by content.

    Format (yann.lecun.com/exdb/mnist): two zero bytes, type 0x08, the number of dimensions, then each size as a
    big-endian uint32, then the data. Raises DataError when any of it does not hold.
    """
    content = unpacked(path)
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if len(content) < header or content[:4] != magic:
        raise DataError(
            f"{path}: not an idx file of bytes with {dimensions} dimension{'s' if dimensions > 1 else ''} "
            f"(it begins with {content[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')} and {dimensions} "
            f"size{'s' if dimensions > 1 else ''}); download it again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = math.prod(shape)
    if len(content) - header != expected:
        raise DataError(
            f"{path}: {len(content) - header} bytes of data where its header says {expected}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def unpacked(path: Path) -> bytes:
    """A file's content, gunzipped where it is gzip by content. Raises DataError."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from error
