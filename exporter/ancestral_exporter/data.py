"""The data sets: scikit-learn's digits, MNIST from the original idx files, and made-up tiles of known entropy.

Images are uint8 NHWC whose bytes are levels, as everywhere: level k of K is round(255 k / (K − 1)).
Letters: N images, H, W, C image axes, K levels.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ancestral_exporter import tiles
from ancestral_exporter.errors import DataError, UsageError
from ancestral_exporter.models.base import ImageShape

Images = npt.NDArray[np.uint8]  # [N,H,W,C]
Labels = npt.NDArray[np.int64]  # [N]

# The seed that fixes the binarised validation and test images, so that every run is measured on the same ones.
BINARISATION_SEED = 20101123
MNIST_VALIDATION = 10_000
TILES_SEED = 1

MNIST_HELP = (
    "MNIST is the 28×28 handwritten digits of LeCun, Cortes and Burges; get its four idx files "
    "(train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each raw or "
    ".gz) from a mirror such as https://ossci-datasets.s3.amazonaws.com/mnist/ and pass --data DIR, the folder that "
    "holds them or holds them in mnist/"
)


@dataclass(frozen=True)
class Split:
    """Images and their classes, in a fixed order.

    `images` [N,H,W,C] uint8. Where `binarise` is set they are grey and `images` is not what a model sees: training
    draws each pixel ~ Bernoulli(byte / 255) anew each time (Salakhutdinov & Murray 2008, "dynamic binarisation").
    """

    images: Images
    labels: Labels
    binarise: bool = False

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A data set in its three parts. `binarisation` says how pixels became levels, in words for the card."""

    name: str
    description: str
    binarisation: str
    image: ImageShape
    train: Split
    validation: Split
    test: Split


def binarise(images: Images, rng: np.random.Generator) -> Images:
    """Each pixel drawn as 255 with probability byte / 255, else 0; shape kept."""
    # u is one of 0..254, so byte 0 never and byte 255 always gives 255.
    return np.where(rng.integers(0, 255, images.shape, dtype=np.uint8) < images, 255, 0).astype(np.uint8)


def load_digits() -> Dataset:
    """The 1797 8×8 digits of scikit-learn, 17 levels.

    The first 1000 train, the next 350 validate, the last 447 test: the split of jmtomczak/intro_dgm, against which
    published figures exist.
    """
    from sklearn.datasets import load_digits as bundled

    values, classes = bundled(return_X_y=True)  # [1797,64] of 0..16
    images = np.rint(255 * values / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = classes.astype(np.int64)
    return Dataset(
        name="digits",
        description="scikit-learn's 1797 handwritten digits, 8×8, 17 grey levels; first 1000 train, next 350 "
        "validation, last 447 test",
        binarisation="none: 17 grey levels as they are",
        image=ImageShape(8, 8, 1, 17),
        train=Split(images[:1000], labels[:1000]),
        validation=Split(images[1000:1350], labels[1000:1350]),
        test=Split(images[1350:], labels[1350:]),
    )


def load_mnist(folder: Path | None) -> Dataset:
    """MNIST from the original idx files in `folder` or `folder/mnist`; the last 10,000 of the 60,000 validate.

    Raises DataError that names the file when one is missing or is not what it should be.
    """
    if folder is None:
        raise DataError(f"this recipe needs the MNIST files: {MNIST_HELP}")
    train_images, train_labels = _idx_pair(folder, "train")
    test_images, test_labels = _idx_pair(folder, "t10k")
    if len(train_images) <= MNIST_VALIDATION:
        raise DataError(
            f"{folder}: train-images-idx3-ubyte holds {len(train_images)} images, but {MNIST_VALIDATION} of them are "
            "for validation: more are needed"
        )
    rng = np.random.default_rng(BINARISATION_SEED)
    return Dataset(
        name="mnist",
        description="MNIST handwritten digits, 28×28; 50,000 train, the last 10,000 of the 60,000 validation, "
        "10,000 test",
        binarisation=f"dynamic: each pixel ~ Bernoulli(intensity), drawn anew whenever an image is trained on; "
        f"validation and test drawn once with seed {BINARISATION_SEED}",
        image=ImageShape(28, 28, 1, 2),
        train=Split(train_images[:-MNIST_VALIDATION], train_labels[:-MNIST_VALIDATION], binarise=True),
        validation=Split(binarise(train_images[-MNIST_VALIDATION:], rng), train_labels[-MNIST_VALIDATION:]),
        test=Split(binarise(test_images, rng), test_labels),
    )


def load_tiles() -> Dataset:
    """Images of `tiles`, always the same: 4000 train, 500 validate, 2000 test. They have no classes: labels are 0."""
    shape = tiles.SHAPE
    levels = tiles.generate(6500, np.random.default_rng(TILES_SEED))
    images = np.rint(255 * levels / (shape.levels - 1)).astype(np.uint8)
    labels = np.zeros(len(images), np.int64)
    return Dataset(
        name="tiles",
        description=f"made-up {shape.height}×{shape.width} colour images of known entropy, {shape.levels} levels; 4000 "
        "train, 500 validation, 2000 test",
        binarisation=f"none: {shape.levels} levels per channel as they are",
        image=shape,
        train=Split(images[:4000], labels[:4000]),
        validation=Split(images[4000:4500], labels[4000:4500]),
        test=Split(images[4500:], labels[4500:]),
    )


# The shapes stand here too, so that an untrained model can be exported without the data.
SHAPES = {"digits": ImageShape(8, 8, 1, 17), "tiles": tiles.SHAPE, "mnist": ImageShape(28, 28, 1, 2)}
# Those whose files a person must fetch.
FETCHED = frozenset({"mnist"})
_LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": lambda _: load_digits(),
    "tiles": lambda _: load_tiles(),
    "mnist": load_mnist,
}


def load(name: str, folder: Path | None = None) -> Dataset:
    """The data set called `name`; `folder` is where its files lie, for those that do not ship with a package."""
    if name not in _LOADERS:
        raise UsageError(f"unknown data set {name!r}; there are: {', '.join(_LOADERS)}")
    return _LOADERS[name](folder)


def _idx_pair(folder: Path, part: str) -> tuple[Images, Labels]:
    """Images [N,28,28,1] and labels [N] of one part, "train" or "t10k"."""
    images_path = _find(folder, f"{part}-images-idx3-ubyte")
    labels_path = _find(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images are {images.shape[1]}×{images.shape[2]}, not 28×28")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
    return images[..., None], labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    """The path of an idx file, raw or .gz, in the folder or its subfolder mnist."""
    for base in (folder, folder / "mnist"):
        for candidate in (base / name, base / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise DataError(f"{folder / name}: no such file (nor {name}.gz, nor either in {folder / 'mnist'}); {MNIST_HELP}")


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes with so many dimensions, gunzipped where it is gzip by content.

    Format (yann.lecun.com/exdb/mnist): two zero bytes, type 0x08, the number of dimensions, then each size as a
    big-endian uint32, then the data. Raises DataError when any of it does not hold.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path}: not an idx file of bytes with {dimensions} dimension{'s' if dimensions > 1 else ''} "
            f"(it begins with {content[:4].hex(' ') or 'nothing'}); download it again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise DataError(
            f"{path}: {len(content) - header} bytes of data where its header says {expected}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
