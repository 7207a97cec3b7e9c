"""MNIST from the original idx files.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
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
    ".gz) from a mirror such as https://ossci-datasets.s3.amazonaws.com/mnist/ and pass --data DIR, the folder that "
    "holds them or holds them in mnist/"
)


def load(settings: DataSettings, folder: Path | None) -> Dataset:
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
