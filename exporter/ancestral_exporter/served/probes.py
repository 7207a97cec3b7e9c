"""What an encoding is worth to somebody with few labels: simple classifiers on it, and on what costs nothing.

Letters: N images, D numbers of an image, K classes, R choices of labelled images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ancestral_exporter.bundle.runtime import Array

LABELLED = (50, 100, 1000)
# Accuracy at few labels depends on which: averaged over so many random choices of them.
DRAWS = 10
LINEAR, NEAREST, SVM, SPREADING = "linear probe", "nearest neighbours", "SVM", "label spreading"
# Fewer than the images of a class there are at 50 labels of 10 classes.
_NEIGHBOURS = 3
# Of the SVM: C (of 3 and 10 the better one on the validation images of MNIST), and images that it classifies at a time.
_PENALTY, _AT_ONCE = 3.0, 1000
# Label spreading (Zhou et al. 2003, equation 4): neighbours of an image, and the share of its scores that it gets from
# them. After so many steps what comes from further away weighs 1 / 150 of what it did, and the classes do not change.
_GRAPH, _SPREAD, _STEPS = 10, 0.95, 100
_SEED = 0


@dataclass(frozen=True)
class Probe:
    """Share of images that a classifier gets right, over several choices of so many labelled training images.

    encoding: what the classifier sees. classifier: "linear probe", a logistic regression on standardised numbers;
    "nearest neighbours"; "SVM" with a radial kernel; or "label spreading", which also sees the training images that
    have no label.
    """

    encoding: str
    classifier: str
    labelled: int
    accuracy: float
    deviation: float


def probe(
    encodings: Mapping[str, tuple[Array, Array]], train_labels: Array, test_labels: Array, counts: Sequence[int]
) -> list[Probe]:
    """Every classifier at each of these counts of labels on each encoding, training [N,D] and test [M,D] by name.

    All see the same labelled images, as many of each class as there are. Counts that the classes or the training images
    do not allow are left out.
    """
    random = np.random.default_rng(_SEED)
    classes = np.unique(train_labels)
    found = []
    chosen = {
        count: [_choose(train_labels, count, random) for _ in range(DRAWS if count < len(train_labels) else 1)]
        for count in counts
        if len(classes) <= count <= len(train_labels)
    }
    for name, (train, test) in encodings.items() if chosen else ():
        spreading = _Spreading(train, test, classes)
        for count, choices in chosen.items():
            for kind in (LINEAR, NEAREST, SVM):
                right = [_accuracy(kind, train[i], train_labels[i], test, test_labels) for i in choices]
                found.append(_probe(name, kind, count, right))
            found.append(_probe(name, SPREADING, count, spreading.accuracies(choices, train_labels, test_labels)))
    return sorted(found, key=lambda entry: entry.labelled)


def _probe(encoding: str, kind: str, count: int, right: Sequence[float]) -> Probe:
    return Probe(encoding, kind, count, float(np.mean(right)), float(np.std(right)))


def _choose(labels: Array, count: int, random: np.random.Generator) -> Array:
    """Indices of so many images, without repetition: of each class as many as of any other, or all that it has."""
    shuffled = random.permutation(len(labels))
    # The how manieth of its class each one is in this order.
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels[shuffled] == label)
        turn[of_class] = np.arange(len(of_class))
    return shuffled[np.argsort(turn, kind="stable")[:count]]


def _accuracy(kind: str, train: Array, train_labels: Array, test: Array, test_labels: Array) -> float:
    if kind == SVM:
        return _svm_accuracy(train, train_labels, test, test_labels)
    if kind == LINEAR:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    else:
        classifier = KNeighborsClassifier(_NEIGHBOURS)
    return float(classifier.fit(train, train_labels).score(test, test_labels))


def _svm_accuracy(train: Array, train_labels: Array, test: Array, test_labels: Array) -> float:
    """Of SVC with a radial kernel, whose values BLAS computes: ten times as fast as libsvm with many numbers.

    1 / gamma is the sum of the variances of the D numbers: scikit-learn's gamma="scale" of numbers that are centred.
    "scale" itself takes the variance of all numbers together, so that their offsets from each other widen the kernel,
    though distances know of none.
    """
    gamma = 1 / (float(train.var(axis=0, dtype=np.float64).sum()) or 1.0)
    machine = SVC(C=_PENALTY, kernel="precomputed").fit(rbf_kernel(train, gamma=gamma), train_labels)
    right = 0
    for first in range(0, len(test), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        right += int((machine.predict(rbf_kernel(test[part], train, gamma=gamma)) == test_labels[part]).sum())
    return right / len(test)


class _Spreading:
    """Labels that spread over the graph of nearest training images, and from there to test images.

    One graph serves all choices of labelled images: it knows no labels.
    """

    def __init__(self, train: Array, test: Array, classes: Array) -> None:
        count = min(_GRAPH, len(train) - 1)
        near = NearestNeighbors(n_neighbors=count).fit(train)
        links = near.kneighbors_graph()
        links = links.maximum(links.T)
        root = 1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel())
        self.links = links.multiply(root[:, None]).multiply(root).tocsr().astype(np.float32)  # [N,N]
        self.of_test = near.kneighbors(test, return_distance=False)  # [M,neighbours]
        self.classes = classes

    def accuracies(self, choices: Sequence[Array], train_labels: Array, test_labels: Array) -> list[float]:
        """The share of test images that each of the choices gets right."""
        given = np.zeros((len(train_labels), len(choices), len(self.classes)), np.float32)  # [N,R,K]
        for draw, chosen in enumerate(choices):
            given[chosen, draw, np.searchsorted(self.classes, train_labels[chosen])] = 1
        flat = given.reshape(len(given), -1)
        spread = flat
        for _ in range(_STEPS):
            spread = _SPREAD * (self.links @ spread) + (1 - _SPREAD) * flat
        scores = spread.reshape(given.shape)
        # Each neighbour has one voice, however far from a label it is.
        scores = scores / np.maximum(scores.sum(axis=2, keepdims=True), np.finfo(np.float32).tiny)
        found = [self.classes[scores[self.of_test, draw].sum(axis=1).argmax(axis=1)] for draw in range(len(choices))]
        return [float((classes == test_labels).mean()) for classes in found]
