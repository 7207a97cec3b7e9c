"""scikit-learn's 8×8 digits as the server takes them, split as in the literature (jmtomczak/intro_dgm).

Letters: N images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TRAIN, VALIDATION = 1000, 350
LABELLED = (50, 100, 1000)
# Accuracy on few labels depends on which: average over so many random subsets.
SUBSETS = 10
# Of PCA: as many as the VAEs have latents.
COMPONENTS = 24

# By name, the numbers [N,D] that training and test images are encoded as.
Encodings = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class Digits:
    """Images [N,8,8,1] uint8 and labels [N] of the training and of the test images."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def digits() -> Digits:
    """The first 1000 images train, the last 447 test. Level k of 17 is the byte round(255 k / 16)."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    rest = TRAIN + VALIDATION
    return Digits(images[:TRAIN], labels[:TRAIN], images[rest:], labels[rest:])


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of a classifier, 0 to 1, over several subsets of so many labelled images."""

    features: str
    labelled: int
    mean: float
    deviation: float


def accuracies(data: Digits, encodings: Encodings) -> list[Accuracy]:
    """Logistic regression on each encoding, on raw pixels and on PCA of `COMPONENTS`, on the same labels."""
    pixels, test_pixels = (a.reshape(len(a), -1) / 255 for a in (data.train, data.test))
    # Like an encoder, PCA may see all training images; only labels are scarce.
    pca = PCA(COMPONENTS, random_state=0).fit(pixels)
    contestants = {
        **encodings,
        "raw pixels": (pixels, test_pixels),
        f"PCA, {COMPONENTS} components": (pca.transform(pixels), pca.transform(test_pixels)),
    }
    random = np.random.default_rng(0)
    results = []
    for labelled in LABELLED:
        subsets = [random.permutation(TRAIN)[:labelled] for _ in range(SUBSETS if labelled < TRAIN else 1)]
        for name, (train, test) in contestants.items():
            scores = []
            for subset in subsets:
                classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
                classifier.fit(train[subset], data.train_labels[subset])
                scores.append(classifier.score(test, data.test_labels))
            results.append(Accuracy(name, labelled, float(np.mean(scores)), float(np.std(scores))))
    return results
