"""The statically binarised MNIST, of which every pixel was drawn once and for all, from its three text files.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ancestral_exporter.data.dataset import Dataset, Images, Part, Split
from ancestral_exporter.data.mnist import SHAPE, find_idx, holds, unpacked
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import DataError

_NAMES: dict[Part, str] = {
    "train": "binarized_mnist_train.amat",
    "validation": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}
HELP = (
    "the statically binarised MNIST of Larochelle and Murray (2011) is three text files, "
    f"{', '.join(_NAMES.values())}, each raw or .gz; pass --data DIR, a folder that holds them, itself or up to three "
    "folders further down"
)


def load(settings: DataSettings, folder: Path | None) -> Dataset:
    """Its published split: of the 60,000 training images of MNIST 50,000 train and 10,000 validate; 10,000 test.

    The images have no classes: labels are 0. Raises DataError that names the file when one is missing or broken.
    """
    if folder is None:
        raise DataError(f"this recipe needs files: {HELP}")
    parts = {part: Split(images, np.zeros(len(images), np.int64)) for part, images in read(folder).items()}
    counts = ", ".join(f"{len(split):,} {part}" for part, split in parts.items())
    return Dataset(
        name="mnist-static",
        description=f"MNIST handwritten digits, 28×28, statically binarised; {counts}",
        binarisation="static: each pixel was drawn once and for all, by Larochelle and Murray (2011)",
        image=SHAPE,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
    )


def holds_amat(folder: Path) -> bool:
    """Whether such files lie in the folder, or as far below it as `read` looks."""
    return holds(folder, _NAMES["train"])


def read(folder: Path) -> dict[Part, Images]:
    """The images [N,28,28,1] of the parts train, validation and test. Raises DataError."""
    paths = find_idx(folder, tuple(_NAMES.values()), HELP)
    return {part: _read(paths[name]) for part, name in _NAMES.items()}


def _read(path: Path) -> Images:
    """A line of 784 digits 0 or 1, with spaces between, for each image."""
    height, width, channels = SHAPE.hwc
    content = np.frombuffer(unpacked(path).strip() + b"\n", np.uint8)
    digits = (content == ord("0")) | (content == ord("1"))
    others = np.unique(content[~digits])
    if strange := [chr(code) for code in others if chr(code) not in " \t\r\n"]:
        raise DataError(f"{path}: holds {strange[0]!r}; it must be lines of 784 digits 0 or 1; download it again")
    ends = np.flatnonzero(content == ord("\n"))
    lengths = np.add.reduceat(digits, np.concatenate([[0], ends[:-1]]), dtype=np.int64)
    if (wrong := np.flatnonzero(lengths != SHAPE.values)).size:
        line = int(wrong[0])
        raise DataError(
            f"{path}: line {line + 1} has {lengths[line]} digits, each must have {SHAPE.values}; download it again"
        )
    images: Images = (content[digits] - ord("0")) * np.uint8(255)
    return images.reshape(-1, height, width, channels)
