"""What an encoding is worth to somebody with few labels: simple classifiers on it, and on what costs nothing.

Letters: N images, D numbers of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ancestral_exporter.bundle.runtime import Array

LABELLED = (50, 100, 1000)
# Accuracy at few labels depends on which: averaged over so many random choices of them.
DRAWS = 10
# Fewer than the images of a class there are at 50 labels of 10 classes.
_NEIGHBOURS = 3
_SEED = 0


@dataclass(frozen=True)
class Probe:
    """Share of test images that a classifier gets right, over several choices of so many labelled training images.

    encoding: what the classifier sees. classifier: "linear probe", a logistic regression on standardised numbers, or
    "nearest neighbours".
    """

    encoding: str
    classifier: str
    labelled: int
    accuracy: float
    deviation: float


def probe(encodings: Mapping[str, tuple[Array, Array]], train_labels: Array, test_labels: Array) -> list[Probe]:
    """Every classifier at every number of labels on each encoding, training [N,D] and test [M,D] by name.

    All see the same labelled images: one of each class, the others at random. Numbers of labels that the classes or the
    training images do not allow are left out.
    """
    random = np.random.default_rng(_SEED)
    classes = np.unique(train_labels)
    found = []
    for labelled in (count for count in LABELLED if len(classes) <= count <= len(train_labels)):
        draws = DRAWS if labelled < len(train_labels) else 1
        chosen = [_choose(train_labels, classes, labelled, random) for _ in range(draws)]
        for name, (train, test) in encodings.items():
            for kind in ("linear probe", "nearest neighbours"):
                accuracies = [_accuracy(kind, train[i], train_labels[i], test, test_labels) for i in chosen]
                found.append(Probe(name, kind, labelled, float(np.mean(accuracies)), float(np.std(accuracies))))
    return found


def _choose(labels: Array, classes: Array, count: int, random: np.random.Generator) -> Array:
    """Indices of so many images, without repetition; a classifier needs one of each class."""
    shuffled = random.permutation(len(labels))
    firsts = [int(np.flatnonzero(labels[shuffled] == label)[0]) for label in classes]
    others = np.delete(np.arange(len(labels)), firsts)[: count - len(firsts)]
    return shuffled[np.concatenate([firsts, others]).astype(np.int64)]


def _accuracy(kind: str, train: Array, train_labels: Array, test: Array, test_labels: Array) -> float:
    if kind == "linear probe":
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    else:
        classifier = KNeighborsClassifier(_NEIGHBOURS)
    return float(classifier.fit(train, train_labels).score(test, test_labels))
