"""What the latents of a bundle tell of images, through its `encode` role.

Letters: N images, Z latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.served.bundle import Served

# A latent whose posterior mean varies less over the images is off (Burda et al. 2016, section 5.2).
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class Latents:
    """Of so many images, latent by latent. variances: of the means of q(z|x) over the images.

    divergences: mean KL(q(z|x) || N(0,1)), nats; None where `encode` gives no variance, as an autoencoder's.
    """

    images: int
    variances: tuple[float, ...]
    divergences: tuple[float, ...] | None

    @property
    def active(self) -> int:
        """How many latents vary with the image."""
        return sum(variance > ACTIVE_VARIANCE for variance in self.variances)


def measure_latents(served: Served, images: Array) -> Latents | None:
    """Encode images [N,H,W,C] uint8; None for a bundle whose `encode` gives no mean."""
    if not served.gives("encode", bundle_pb2.MEANING_MEAN):
        return None
    moments = {meaning: values.astype(np.float64) for meaning, values in served.moments(images).items()}
    mean = moments[bundle_pb2.MEANING_MEAN]
    divergences = None
    if bundle_pb2.MEANING_LOG_VARIANCE in moments:
        log_variance = moments[bundle_pb2.MEANING_LOG_VARIANCE]
        kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
        divergences = tuple(kl.mean(axis=0).tolist())
    return Latents(len(images), tuple(mean.var(axis=0).tolist()), divergences)
