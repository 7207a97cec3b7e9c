"""What the images that a model was trained on are like, for the manifest.

Letters: N images, Z latent dimensions.
"""

from __future__ import annotations

import numpy as np

from ancestral.bundle.rules import MAX_MOMENTS
from ancestral.v1 import bundle_pb2
from ancestral_exporter.data import Split, binarise
from ancestral_exporter.served.bundle import Served

# A mean of so many is a fiftieth of a standard deviation off. They are encoded once, in about a second.
_IMAGES = 2_000
_SEED = 0


def measure_moments(served: Served, train: Split) -> bundle_pb2.TrainingMoments:
    """Of up to 2,000 training images, spread over all of them, as the model sees them."""
    images = train.images[:: -(-len(train) // _IMAGES)]
    if train.binarise:
        images = binarise(images, np.random.default_rng(_SEED))
    brightness = images.reshape(len(images), -1).mean(axis=1) / 255
    moments = bundle_pb2.TrainingMoments(
        images=len(images), intensity_mean=float(brightness.mean()), intensity_std=float(brightness.std())
    )
    if served.gives("encode", bundle_pb2.MEANING_MEAN):
        means = served.means(images).astype(np.float64)
        if means.shape[1] <= MAX_MOMENTS and np.isfinite(means).all():
            moments.latent_mean.extend(means.mean(axis=0))
            moments.latent_std.extend(means.std(axis=0))
    return moments
