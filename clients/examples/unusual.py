"""Which images are unlike those that a model was trained on? Three scores by its likelihood, and where the first fails.

A likelihood is a density of images, and simple images have a high one wherever they come from: a PixelCNN often finds
flat pictures likelier than the images that it was trained on (Nalisnick et al. 2019, "Do deep generative models know
what they don't know?"). Two corrections, both higher for what is unusual, as is the first:

    likelihood   bits that the model needs for the image
    typicality   how far these bits are from those of usual images, above or below (Nalisnick et al. 2019, "Detecting
                 out-of-distribution inputs to deep generative models using typicality", for groups of one image)
    complexity   these bits less those of a lossless compressor, which knows what is simple and nothing of the
                 model's images (Serrà et al. 2020, "Input complexity and out-of-distribution detection")

With MNIST and Fashion-MNIST in `mnist/` and `fashion/`:  unusual.py --model mnist-pixelcnn-dilated
--usual mnist/t10k-images-idx3-ubyte.gz --unusual fashion/t10k-images-idx3-ubyte.gz
"""

from __future__ import annotations

import argparse
import os
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from ancestral_client import Client
from ancestral_client.files import read_images

Images = NDArray[np.uint8]  # [N,H,W] or [N,H,W,C]
Numbers = NDArray[np.floating]  # [N]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500"))
    parser.add_argument("--model", default="digits-pixelcnn", help="a model that scores")
    parser.add_argument("--usual", type=Path, help="file of images like its own; by default scikit-learn's digits")
    parser.add_argument("--unusual", type=Path, nargs="+", help="files of other images; by default made-up ones")
    parser.add_argument("-n", type=int, default=400, help="images of each kind that are looked at, at most")
    parser.add_argument("--out", default="unusual.png")
    arguments = parser.parse_args()

    if arguments.usual is None:
        usual = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[1350:]  # the test images
    else:
        usual = read_images(arguments.usual)
    half = min(arguments.n, len(usual) // 2)
    if arguments.unusual is None:
        others = made_up(usual[half : 2 * half])
    else:
        others = {str(path): read_images(path)[: arguments.n] for path in arguments.unusual}

    with Client(arguments.address) as client:
        levels = client.model(arguments.model).levels

        def look(images: Images) -> tuple[Numbers, Numbers]:
            """The bits that the model needs for each image, and those that a compressor does."""
            scores = client.score(arguments.model, images, progress=True)
            return -scores.log_likelihood / np.log(2), compressed(images, levels)

        # One half of the usual images says what is usual, the other is told from what is not.
        typical = look(usual[:half])[0].mean()
        bits, simple = look(usual[half : 2 * half])
        found = {name: look(images) for name, images in others.items()}

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.hist(bits, 40, density=True, alpha=0.6, label="usual")
    print(f"{'area under the ROC curve; 0.5 is chance':48}likelihood  typicality  complexity")
    for name, (other_bits, other_simple) in found.items():
        axes.hist(other_bits, 40, density=True, alpha=0.6, label=name)
        areas = (
            area(bits, other_bits),
            area(abs(bits - typical), abs(other_bits - typical)),
            area(bits - simple, other_bits - other_simple),
        )
        print(f"{name:48}" + "  ".join(f"{value:10.3f}" for value in areas))
    axes.set(xlabel=f"bits that {arguments.model} needs for an image", ylabel="density")
    axes.legend()
    figure.savefig(arguments.out, dpi=120)
    print(f"wrote {arguments.out}")


def made_up(images: Images) -> dict[str, Images]:
    """Five ways to be unlike images [N,H,W]."""
    random = np.random.default_rng(0)
    levels = np.unique(images)
    dots = np.zeros_like(images).reshape(len(images), -1)
    dots[np.arange(len(images)), random.integers(dots.shape[1], size=len(images))] = random.choice(levels, len(images))
    return {
        "noise": random.choice(levels, images.shape),
        "shuffled pixels": random.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape),
        "white on black, reversed": 255 - images,
        "flat, one grey each": np.broadcast_to(random.choice(levels, len(images))[:, None, None], images.shape).copy(),
        "a dot on black": dots.reshape(images.shape),
    }


def compressed(images: Images, levels: int) -> Numbers:
    """Bits of each image as a PNG file, [N], with as many levels as the model sees."""
    found = []
    for image in np.round(images * ((levels - 1) / 255)) * (255 / (levels - 1)):
        file = BytesIO()
        Image.fromarray(np.round(image).astype(np.uint8).squeeze()).save(file, "png", optimize=True)
        found.append(8.0 * file.tell())
    return np.array(found)


def area(usual: Numbers, unusual: Numbers) -> float:
    """The chance that of two images the unusual one has the higher score (the area under the ROC curve)."""
    labels = np.repeat([0, 1], [len(usual), len(unusual)])
    return float(roc_auc_score(labels, np.concatenate([usual, unusual])))


if __name__ == "__main__":
    main()
