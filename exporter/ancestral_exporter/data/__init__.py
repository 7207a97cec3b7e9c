"""The data sets: one file a source, each giving its images in three parts as `dataset` has them.

digits, tiles   come with the package
mnist           the original idx files, in a folder that `--data` names
static_mnist    the statically binarised MNIST, in text files
own             a person's images, of anything that `readers` read: `pictures` makes bytes of them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ancestral_exporter.data import digits, mnist, own, static_mnist, tiles
from ancestral_exporter.data.dataset import (
    BINARISATION_SEED,
    Dataset,
    Images,
    Labels,
    Split,
    binarise,
    labelled_only,
    repeated,
    with_labels,
)
from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import DataError, UsageError, nearest
from ancestral_exporter.models.base import ImageShape

__all__ = ["BINARISATION_SEED", "SOURCES", "DataSettings", "Dataset", "Images", "Labels", "Source", "Split", "binarise"]
__all__ += ["labelled_only", "load", "repeated", "shape"]


@dataclass(frozen=True)
class Source:
    """One kind of data. needs_path: whether `--data` must say where the images are.

    shape: what the images are like as far as the settings tell, so that an untrained model can be exported without
    them. load: the images; the path is None where nobody gave one.
    """

    needs_path: bool
    shape: Callable[[DataSettings], ImageShape | None]
    load: Callable[[DataSettings, Path | None], Dataset]


def _own(settings: DataSettings, path: Path | None) -> Dataset:
    if path is None:
        raise DataError("this recipe needs your images: pass --data, a folder of pictures, .npz, .npy or .parquet")
    return own.load(settings, path)


SOURCES: dict[str, Source] = {
    "digits": Source(False, lambda _: digits.SHAPE, digits.load),
    "tiles": Source(False, lambda _: tiles.SHAPE, tiles.load),
    "mnist": Source(True, lambda _: mnist.SHAPE, mnist.load),
    "mnist-static": Source(True, lambda _: mnist.SHAPE, static_mnist.load),
    "images": Source(True, own.shape, _own),
}


def load(settings: DataSettings, path: Path | None = None) -> Dataset:
    """The data set that a recipe's settings describe; `path` is where its files lie, where it needs any."""
    data = _source(settings).load(settings, path)
    if settings.labelled is None:
        return data
    return dataclasses.replace(data, train=with_labels(data.train, settings.labelled))


def shape(settings: DataSettings) -> ImageShape | None:
    """What its images are like, None where only the images tell."""
    return _source(settings).shape(settings)


def _source(settings: DataSettings) -> Source:
    if settings.source not in SOURCES:
        what = f"unknown data source {settings.source!r}{nearest(settings.source, SOURCES)}"
        raise UsageError(f"{what}; there are: {', '.join(SOURCES)}")
    return SOURCES[settings.source]
