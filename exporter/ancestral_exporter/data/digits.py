"""scikit-learn's digits, which come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ancestral_exporter.data.dataset import Dataset, Split
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.models.base import ImageShape

SHAPE = ImageShape(8, 8, 1, 17)


def load(settings: DataSettings, path: Path | None) -> Dataset:
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
        image=SHAPE,
        train=Split(images[:1000], labels[:1000]),
        validation=Split(images[1000:1350], labels[1000:1350]),
        test=Split(images[1350:], labels[1350:]),
    )
