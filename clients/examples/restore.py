"""Restores damaged images with a PixelCNN: several ways to fill the hole, and which of them to believe.

A PixelCNN draws each pixel given those above and to the left of it. Of a hole it therefore sees the upper edge, and
what lies below only once the hole is filled. So draw many fillings, and weigh each by how well the pixels after it
fit: log p(whole image) less log p(its new pixels) is the log-likelihood of all known pixels given what came before
them. Drawing one filling by these weights (sampling-importance-resampling) is a draw from p(hole | all that is known),
the better the more fillings there are.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ancestral_client import Client, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500"))
    parser.add_argument("--model", default="digits-pixelcnn", help="a model that samples and scores 8×8 digits")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--fillings", type=int, default=32, help="ways to fill each hole that are drawn and weighed")
    parser.add_argument("--out", default="restored.png")
    arguments = parser.parse_args()

    whole = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[1350:][: arguments.images, ..., None]
    known = np.ones(whole.shape[1:], bool)
    known[2:5, 1:7] = False  # the hole, the same in all
    damaged = np.where(known, whole, pictures.GREY)

    rows: list[NDArray[np.uint8]] = []
    errors: dict[str, list[float]] = {"the first filling": [], "the one that fits best": []}
    with Client(arguments.address) as client:
        for original, image in zip(whole, damaged, strict=True):
            drawn = client.complete(arguments.model, image, known, arguments.fillings, seed=0)
            if drawn.log_likelihood is None:
                parser.error(f"{arguments.model} does not tell how likely its samples are")
            after = client.score(arguments.model, drawn.images).log_likelihood - drawn.log_likelihood
            order = np.argsort(-after)
            for name, filling in zip(errors, (drawn.images[0], drawn.images[order[0]]), strict=True):
                errors[name].append(np.abs(filling[~known].astype(float) - original[~known]).mean())
            rows.append(np.stack([original, image, drawn.images[0], *drawn.images[order[:3]]]))
    columns = rows[0].shape[0]
    # Original, damaged, the first filling, and the three that fit best.
    Image.fromarray(pictures.grid(np.concatenate(rows), columns)).save(arguments.out)
    for name, found in errors.items():
        print(f"{name}: {np.mean(found):.1f} of 255 levels off, on average over the pixels of {len(found)} holes")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
