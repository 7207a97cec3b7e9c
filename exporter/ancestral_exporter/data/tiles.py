"""The made-up images of `ancestral_exporter.tiles`, always the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ancestral_exporter import tiles
from ancestral_exporter.data.dataset import Dataset, Split
from ancestral_exporter.data.settings import DataSettings

SEED = 1
SHAPE = tiles.SHAPE


def load(settings: DataSettings, path: Path | None) -> Dataset:
    """Images of `tiles`, always the same: 4000 train, 500 validate, 2000 test. They have no classes: labels are 0."""
    shape = SHAPE
    levels = tiles.generate(6500, np.random.default_rng(SEED))
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
