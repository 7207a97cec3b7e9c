"""What a bundle's samples are: of which classes, how like test images as a whole, and whether copies of training ones.

Letters: N images, H, W, C image axes, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.served.judge import FEATURES, Judged

# So many images are compared with so many others at a time: a million distances.
_IMAGES, _AMONG = 100, 10_000
# A classifier that gives a class more than this is sure of it.
SURE = 0.9


@dataclass(frozen=True)
class Classes:
    """What the judge makes of samples and of as many test images.

    histogram, test_histogram: images of each class. sure, test_sure: the shares that it gives more than SURE. agreeing:
    the share of samples that it takes for the class that was asked for, None where none was. test_accuracy: its share
    of right answers on test images.
    """

    images: int
    histogram: tuple[int, ...]
    test_histogram: tuple[int, ...]
    sure: float
    test_sure: float
    agreeing: float | None
    test_accuracy: float


def count_classes(samples: Judged, test: Judged, test_labels: Array, asked: Array | None) -> Classes:
    """Compare samples with test images of the classes `test_labels`. asked: the samples' classes, if there are any."""
    count = samples.probabilities.shape[1]
    return Classes(
        images=len(samples.features),
        histogram=tuple(np.bincount(samples.classes, minlength=count).tolist()),
        test_histogram=tuple(np.bincount(test_labels, minlength=count).tolist()),
        sure=float((samples.probabilities.max(axis=1) > SURE).mean()),
        test_sure=float((test.probabilities.max(axis=1) > SURE).mean()),
        agreeing=None if asked is None else float((samples.classes == asked).mean()),
        test_accuracy=float((test.classes == test_labels).mean()),
    )


@dataclass(frozen=True)
class Frechet:
    """Distances from test images, each of `images` images: of samples, and of training images, the floor."""

    images: int
    distance: float
    floor: float


def measure_frechet(samples: Array, train: Array, test: Array) -> Frechet | None:
    """Of features [N,F] each; None for fewer than so many images that their covariances mean something."""
    count = min(map(len, (samples, train, test)))
    if count <= FEATURES:
        return None
    samples, train, test = samples[:count], train[:count], test[:count]
    return Frechet(count, frechet_distance(samples, test), frechet_distance(train, test))


def frechet_distance(a: Array, b: Array) -> float:
    """Between the normal distributions with the means and covariances of a [N,F] and b [M,F] (Heusel et al. 2017)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


@dataclass(frozen=True)
class Memory:
    """Whether samples are copies: their distances to the nearest of `pool` training and of as many test images.

    Distances are Euclidean, of intensities in [0,1]. ratio: the median over the samples of the first by the second: 1
    for a model that has only learnt what images are like, towards 0 for one that repeats them. nearer: the share of
    samples that are nearer to a training image; half of them where there is no difference. copies: samples that are a
    training image, any of them, value for value.
    """

    samples: int
    pool: int
    train_distance: float
    test_distance: float
    ratio: float
    nearer: float
    copies: int


def measure_memory(samples: Array, train: Array, test: Array) -> tuple[Memory, Array]:
    """Of images [N,H,W,C] uint8 each; also the index [N] of the training image that is nearest to each sample."""
    pool = min(len(train), len(test))
    # Training images in the order of the file may be of one writer: take them from all over.
    chosen = np.linspace(0, len(train) - 1, pool).round().astype(np.int64)
    to_train, _ = nearest(samples, train[chosen])
    to_test, _ = nearest(samples, test[:pool])
    to_any, index = nearest(samples, train)
    # One value of one image by one of 255: what is at 0 of a test image is not infinitely far from the training ones.
    ratio = to_train / np.maximum(to_test, 1 / 255)
    memory = Memory(
        samples=len(samples),
        pool=pool,
        train_distance=float(np.median(to_train)),
        test_distance=float(np.median(to_test)),
        ratio=float(np.median(ratio)),
        nearer=float((to_train < to_test).mean() + (to_train == to_test).mean() / 2),
        copies=int((to_any == 0).sum()),
    )
    return memory, index


def nearest(images: Array, among: Array) -> tuple[Array, Array]:
    """For each of images [N,H,W,C] uint8 the distance to the nearest of `among` [M,H,W,C] and its index, [N] each."""
    found, at = np.full(len(images), np.inf, np.float32), np.zeros(len(images), np.int64)
    flat = _flat(images)
    for first in range(0, len(among), _AMONG):
        pool = _flat(among[first : first + _AMONG])
        squares = (pool**2).sum(axis=1)
        for begin in range(0, len(images), _IMAGES):
            part = flat[begin : begin + _IMAGES]
            index = (squares - 2 * part @ pool.T).argmin(axis=1)
            # From the difference itself, so that a copy is at 0.
            distance = np.sqrt(((part - pool[index]) ** 2).sum(axis=1))
            rows = begin + np.flatnonzero(distance < found[begin : begin + _IMAGES])
            found[rows], at[rows] = distance[rows - begin], first + index[rows - begin]
    return found, at


def _flat(images: Array) -> Array:
    """[N,H·W·C] float32 in [0,1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
