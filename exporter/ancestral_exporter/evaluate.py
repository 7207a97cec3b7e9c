"""Measures a trained model on images that it has not seen, in the units of the literature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ancestral.v1 import bundle_pb2
from ancestral_exporter.data import Split
from ancestral_exporter.models.base import Figure, ImageModel, LikelihoodModel

# One-sample estimates of a bound are averaged over so many draws of z.
DRAWS = 5
_BATCH = 250
_SEED = 7


@dataclass(frozen=True)
class Evaluation:
    """Means over the images of one split.

    terms: those of `ImageModel.validation_terms`, nats per image unless `units` says otherwise. dimensions: H·W·C.
    """

    split: str
    images: int
    draws: int
    terms: dict[str, float]
    dimensions: int
    discrete: bool
    likelihood: bundle_pb2.Likelihood.ValueType
    figure: Figure
    units: Mapping[str, str]

    @property
    def has_likelihood(self) -> bool:
        return self.likelihood != bundle_pb2.LIKELIHOOD_UNSPECIFIED

    @property
    def nats(self) -> float:
        return self.terms["loss"]

    @property
    def bits_per_dim(self) -> float:
        """nats / (dimensions · ln 2); comparable between models only when `discrete`."""
        return self.nats / (self.dimensions * math.log(2))

    def metrics(self) -> list[bundle_pb2.Metric]:
        """As the manifest has them. A density goes by another name, so that nobody compares its bits/dim."""
        if not self.has_likelihood:
            return [
                bundle_pb2.Metric(name=name, value=value, unit=self._unit(name), split=self.split)
                for name, value in self.terms.items()
            ]
        name = "negative_log_likelihood" if self.discrete else "negative_log_density"
        found = [(name, self.nats, "nats/image")]
        if self.discrete:
            found.insert(0, ("bits_per_dim", self.bits_per_dim, "bits/dim"))
        found += [(name, value, self._unit(name)) for name, value in self.terms.items() if name != "loss"]
        return [
            bundle_pb2.Metric(
                name=name,
                value=value,
                unit=unit,
                split=self.split,
                likelihood=self.likelihood if i < 1 + self.discrete else bundle_pb2.LIKELIHOOD_UNSPECIFIED,
            )
            for i, (name, value, unit) in enumerate(found)
        ]

    def _unit(self, name: str) -> str:
        if name == self.figure.name:
            return self.figure.unit
        return self.units.get(name, "nats/image" if self.has_likelihood else "")


@torch.no_grad()
def evaluate(model: ImageModel, split: Split, name: str) -> Evaluation:
    """Evaluate on every image of a split, the same noise every time. The model must be in evaluation mode."""
    if len(split) == 0:
        raise ValueError(f"no images in the {name} split")
    draws = DRAWS if model.likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND else 1
    images, labels = torch.from_numpy(split.images.copy()), torch.from_numpy(split.labels.copy())
    sums: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for batch, classes in zip(torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True):
            for _ in range(draws):
                for term, values in model.validation_terms(batch, classes).items():
                    # A term with one value for the batch counts once for each of its images.
                    sums[term] = sums.get(term, 0.0) + values.double().mean().item() * len(batch)
    return Evaluation(
        split=name,
        images=len(images),
        draws=draws,
        terms={term: value / (draws * len(images)) for term, value in sums.items() if term != "bits_per_dim"},
        dimensions=images[0].numel(),
        discrete=isinstance(model, LikelihoodModel) and model.discrete,
        likelihood=model.likelihood,
        figure=model.figure,
        units=model.units,
    )
