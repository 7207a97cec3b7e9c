"""How many labels an encoding saves: a classifier on encodings, on raw pixels and on PCA, as labels grow.

Only labels are scarce: the encoder, as PCA, has seen all training images, without their labels. Each figure is the
mean over ten choices of the labelled images, and the whiskers are their standard deviation.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ancestral_client.sklearn import EncodeFeatures

# The digits that the models were trained on, without those that chose their weights; the test images come last.
TRAIN, TEST = slice(0, 1000), slice(1350, None)
COMPONENTS = 24  # of PCA: as many as `digits-vae-features` has latents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default=os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500"))
    parser.add_argument("--model", default="digits-vae-features", help="any model of 8×8 digits that encodes")
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 50, 100, 200, 500, 1000])
    parser.add_argument("--choices", type=int, default=10, help="of the labelled images, for each number of labels")
    parser.add_argument("--out", default="few_labels.png")
    arguments = parser.parse_args()

    X, y = load_digits(return_X_y=True)  # [1797,64], 0 to 16
    of_model = {"address": arguments.address, "scale": 255 / 16}
    encodings: dict[str, TransformerMixin] = {
        f"features of {arguments.model}": EncodeFeatures(arguments.model, output="features", **of_model),
        f"means of {arguments.model}": EncodeFeatures(arguments.model, output="mean", **of_model),
        "raw pixels": FunctionTransformer(),
        f"PCA, {COMPONENTS} components": PCA(COMPONENTS, random_state=0),
    }
    # Encoded once: what changes below is which images have a label.
    encoded = {name: encoding.fit(X[TRAIN]).transform(X) for name, encoding in encodings.items()}

    random = np.random.default_rng(0)
    choices = {n: [random.permutation(1000)[:n] for _ in range(arguments.choices)] for n in arguments.labels}
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print(f"{'test accuracy, %, given so many labels':40}" + "".join(f"{n:>12}" for n in choices))
    for name, features in encoded.items():
        mean, deviation = [], []
        for chosen in choices.values():
            found = [accuracy(features, y, labelled) for labelled in chosen]
            mean.append(100 * np.mean(found))
            deviation.append(100 * np.std(found))
        axes.errorbar(list(choices), mean, deviation, label=name, marker="o", capsize=3)
        print(f"{name:40}" + "".join(f"{m:6.1f} ± {d:3.1f}" for m, d in zip(mean, deviation, strict=True)))
    axes.set(xscale="log", xlabel="labelled images", ylabel="test accuracy, %", title="8×8 digits, logistic regression")
    axes.set_xticks(list(choices), [str(n) for n in choices], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(arguments.out, dpi=120)
    print(f"wrote {arguments.out}")


def accuracy(features: NDArray[Any], y: NDArray[Any], labelled: NDArray[Any]) -> float:
    """On the test images, of a logistic regression that saw the labels of these training images only."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features[TRAIN][labelled], y[TRAIN][labelled])
    return float(classifier.score(features[TEST], y[TEST]))


if __name__ == "__main__":
    main()
