"""What a data set is: images as bytes in three parts, and what they are called.

Images are uint8 NHWC whose bytes are levels, as everywhere: level k of K is round(255 k / (K − 1)).
Letters: N images, H, W, C image axes, K levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ancestral_exporter.errors import DataError
from ancestral_exporter.models.base import ImageShape

Images = npt.NDArray[np.uint8]  # [N,H,W,C]
Labels = npt.NDArray[np.int64]  # [N]
Part = Literal["train", "validation", "test"]

# The seed that fixes the binarised validation and test images, so that every run is measured on the same ones.
BINARISATION_SEED = 20101123
DYNAMIC = (
    "dynamic: each pixel ~ Bernoulli(intensity), drawn anew whenever an image is trained on; "
    f"validation and test drawn once with seed {BINARISATION_SEED}"
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
    """A data set in its three parts. `binarisation` says how pixels became levels, in words for the card.

    classes: names of the labels from 0 on, where they have any. left_out: of a person's files, what was not taken and
    why, one line each.
    """

    name: str
    description: str
    binarisation: str
    image: ImageShape
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def with_labels(train: Split, count: int) -> Split:
    """The split with so many labels, as many of each class: those of its first images. The others are -1.

    As many labels as there are images are those that there are.

    Raises DataError where a class has too few images, or the count is no multiple of the number of classes.
    """
    if count == len(train):
        return train
    classes = np.unique(train.labels)
    each, rest = divmod(count, len(classes))
    fewest = min(int((train.labels == label).sum()) for label in classes)
    if rest or not 1 <= each <= fewest:
        raise DataError(
            f"data.labelled is {count}; with {len(classes)} classes it must be a multiple of {len(classes)}, at most "
            f"{fewest * len(classes)}, or all {len(train)}"
        )
    kept = np.concatenate([np.flatnonzero(train.labels == label)[:each] for label in classes])
    labels = np.full_like(train.labels, -1)
    labels[kept] = train.labels[kept]
    return Split(train.images, labels, train.binarise)


def labelled_only(train: Split) -> Split:
    """The images that have a label."""
    return Split(train.images[train.labels >= 0], train.labels[train.labels >= 0], train.binarise)


def repeated(train: Split, copies: int) -> Split:
    """The split with every image that has a label there so many times."""
    if copies == 1:
        return train
    kept = np.repeat(np.arange(len(train)), np.where(train.labels >= 0, copies, 1))
    return Split(train.images[kept], train.labels[kept], train.binarise)


def binarise(images: Images, rng: np.random.Generator) -> Images:
    """Each pixel drawn as 255 with probability byte / 255, else 0; shape kept."""
    # u is one of 0..254, so byte 0 never and byte 255 always gives 255.
    return np.where(rng.integers(0, 255, images.shape, dtype=np.uint8) < images, 255, 0).astype(np.uint8)


def dynamically_binarised(train: Split, validation: Split, test: Split) -> tuple[Split, Split, Split]:
    """The three parts of grey images with two levels: training drawn anew each time, the others once and for all."""
    rng = np.random.default_rng(BINARISATION_SEED)
    return (
        Split(train.images, train.labels, binarise=True),
        Split(binarise(validation.images, rng), validation.labels),
        Split(binarise(test.images, rng), test.labels),
    )
