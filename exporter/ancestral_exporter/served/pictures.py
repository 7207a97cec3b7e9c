"""An evaluation as pictures: samples, what they are nearest to, reconstructions, and what the latents do.

Letters: N images, H, W, C image axes, Z latent dimensions.
"""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image

from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.plots import grid, labelled_rows
from ancestral_exporter.served.bundle import Served
from ancestral_exporter.served.evaluation import Evaluation, Seen
from ancestral_exporter.served.latents import ACTIVE_VARIANCE, Latents

SAMPLES, NEIGHBOURS, RECONSTRUCTIONS = "samples.png", "neighbours.png", "reconstructions.png"
MANIFOLD, TRAVERSALS = "manifold.png", "traversals.png"
_COLUMNS = 12
# Points of the manifold along each latent, and of a traversal.
_MANIFOLD, _STEPS = 16, 11
# Traversals show the latents that tell most, and go so many standard deviations of the prior either way.
_LATENTS, _REACH = 10, 3.0


def write_pictures(found: Evaluation, served: Served, seen: Seen, folder: Path) -> list[Path]:
    """Every picture that the bundle's roles allow, into an existing folder; returns their paths."""
    pictures: dict[str, Image.Image] = {}
    if seen.samples is not None and seen.neighbours is not None:
        pictures[SAMPLES] = Image.fromarray(grid(seen.samples[:64], 8))
        difference = (seen.samples.astype(np.float32) - seen.neighbours).reshape(len(seen.samples), -1)
        closest = np.argsort((difference**2).sum(axis=1), kind="stable")[:_COLUMNS]
        rows = [("sample", seen.samples[closest]), ("nearest training image", seen.neighbours[closest])]
        pictures[NEIGHBOURS] = labelled_rows([rows])
    if seen.originals is not None and seen.decoded is not None:
        chosen = [
            slice(first, first + _COLUMNS) for first in range(0, min(3 * _COLUMNS, len(seen.originals)), _COLUMNS)
        ]
        pictures[RECONSTRUCTIONS] = labelled_rows(
            [[("original", seen.originals[part]), ("decoded", seen.decoded[part])] for part in chosen]
        )
    if found.latents and served.can("decode"):
        count = len(found.latents.variances)
        if count == 2:
            pictures[MANIFOLD] = Image.fromarray(grid(served.decode(manifold_points(_MANIFOLD)), _MANIFOLD))
        else:
            pictures[TRAVERSALS] = _traversals(served, found.latents)
    for name, picture in pictures.items():
        picture.save(folder / name, optimize=True)
    return [folder / name for name in pictures]


def manifold_points(steps: int) -> Array:
    """[steps², 2]: the quantiles of N(0, I) on a grid, row by row (Kingma & Welling 2014, figure 4)."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)]
    return np.array([[x, y] for y in quantiles for x in quantiles], np.float32)


def _traversals(served: Served, latents: Latents) -> Image.Image:
    """A row for each of the most telling active latents, from -_REACH to _REACH, the others at 0."""
    worth = latents.divergences or latents.variances
    active = [i for i, variance in enumerate(latents.variances) if variance > ACTIVE_VARIANCE]
    order = sorted(active or range(len(worth)), key=lambda i: -worth[i])[:_LATENTS]
    # An autoencoder's codes have no prior: their spread over images is their scale.
    scale = [1.0 if latents.divergences else latents.variances[i] ** 0.5 for i in order]
    rows = []
    for i, width in zip(order, scale, strict=True):
        points = np.zeros((_STEPS, len(worth)), np.float32)
        points[:, i] = np.linspace(-_REACH, _REACH, _STEPS) * width
        label = f"latent {i}" + (f", {latents.divergences[i]:.1f} nats" if latents.divergences else "")
        rows.append((label, served.decode(points)))
    return labelled_rows([rows])
