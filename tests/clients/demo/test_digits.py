from __future__ import annotations

import numpy as np

from ancestral_demo.digits import LABELLED, accuracies, digits


def test_the_split_is_that_of_the_literature() -> None:
    data = digits()
    assert data.train.shape == (1000, 8, 8, 1)
    assert data.test.shape == (447, 8, 8, 1)
    assert set(np.unique(data.train)) == {round(255 * k / 16) for k in range(17)}


def test_good_features_are_told_from_bad_ones() -> None:
    data = digits()
    random = np.random.default_rng(0)
    good = [np.eye(10)[labels] for labels in (data.train_labels, data.test_labels)]
    bad = [random.standard_normal((n, 10)) for n in (1000, 447)]
    encodings = {"good": (good[0], good[1]), "bad": (bad[0], bad[1])}
    found = {(entry.labelled, entry.features): entry.mean for entry in accuracies(data, encodings)}
    assert {name for _, name in found} == {"good", "bad", "raw pixels", "PCA, 24 components"}
    for labelled in LABELLED:
        assert found[labelled, "good"] > 0.9
        assert found[labelled, "bad"] < 0.3
