"""How probable a bundle finds images, through its `score` role.

Letters: N images, k draws, H, W, C image axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.served.bundle import Served


@dataclass(frozen=True)
class Likelihood:
    """Means over so many images, nats per image, and the standard errors of these means.

    exact: whether `nats` is the model's own; otherwise it is an upper bound, the negative ELBO, and `bound_nats` the
    closer importance-weighted one with so many `draws`, None where the role gives no log-weights. density: of
    intensities, not of levels: no bits/dim.
    """

    images: int
    exact: bool
    density: bool
    draws: int
    nats: float
    nats_error: float
    bound_nats: float | None
    bits_per_dim: float | None
    bound_bits_per_dim: float | None


def measure_likelihood(served: Served, images: Array, labels: Array, draws: int, *, density: bool) -> Likelihood | None:
    """Score images [N,H,W,C] uint8 of the classes [N]; None for a bundle without `score`.

    A bound takes k draws of the latents for each image, and the role gives a log-weight log p(x,z) − log q(z|x) for
    each: their mean is the ELBO, and log(1/k Σ exp) the importance-weighted bound (Burda et al. 2016, equation 8).
    """
    if not served.can("score"):
        return None
    exact = served.roles["score"].likelihood == bundle_pb2.LIKELIHOOD_EXACT
    draws = 1 if exact else draws
    log_weights = served.scores(images, labels, draws).astype(np.float64)
    nats = -log_weights.mean(axis=1)
    # An earlier version's role gave log p(x|z) less a divergence in closed form, of which no closer bound can be made.
    weighted = served.gives("score", bundle_pb2.MEANING_LOG_WEIGHT)
    bound = None if exact or not weighted else float(-_log_mean_exp(log_weights).mean())
    in_bits = 1 / (served.image.values * math.log(2))
    return Likelihood(
        images=len(images),
        exact=exact,
        density=density,
        draws=draws,
        nats=float(nats.mean()),
        nats_error=float(nats.std() / math.sqrt(len(nats))),
        bound_nats=bound,
        bits_per_dim=None if density else float(nats.mean()) * in_bits,
        bound_bits_per_dim=None if density or bound is None else bound * in_bits,
    )


def _log_mean_exp(values: Array) -> Array:
    """[N] of [N,k]."""
    top = values.max(axis=1)
    mean: Array = top + np.log(np.exp(values - top[:, None]).mean(axis=1))
    return mean
