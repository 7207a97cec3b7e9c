"""What is made of draws once a run is over: z of a posterior, and the bound of many draws.

Letters: N images, Z latent dimensions, k draws of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ancestral.bundle import noise
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import OneShotJob, Repeated, RowSource
from ancestral_server.errors import InvalidArgument
from ancestral_server.runtime.program import Meaning, Program
from ancestral_server.runtime.session import Array

MEAN = bundle_pb2.MEANING_MEAN
LOG_VARIANCE = bundle_pb2.MEANING_LOG_VARIANCE
LATENT = bundle_pb2.MEANING_LATENT
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
LOG_WEIGHT = bundle_pb2.MEANING_LOG_WEIGHT

# Of an image: what bounds are evaluated with where many draws are used (Burda et al. 2016, section 5).
MAX_DRAWS = 5_000
# Of a call: one number of each is kept until the last has come, and a reference for each run of a batch; together some
# 10 MiB.
MAX_DRAWS_OF_CALL = 2**20


@dataclass(frozen=True, slots=True)
class PosteriorDraw:
    """z ~ q(z|x), the normal distribution of the moments, as bundle.proto defines it: [N,Z] float32."""

    seed: int
    first_index: int

    @staticmethod
    def possible(program: Program) -> bool:
        """Whether z can be drawn of what a program gives, and it does not do so itself."""
        return LATENT not in program.outputs and {MEAN, LOG_VARIANCE} <= program.outputs.keys()

    def __call__(self, job: OneShotJob) -> Array:
        mean, log_variance = job.output(MEAN), job.output(LOG_VARIANCE)
        uniforms = noise.uniforms_of_range(self.seed, self.first_index, len(mean), (2, *mean.shape[1:]))
        with np.errstate(over="ignore"):  # of a variance that float32 holds and whose draws it does not
            z: Array = mean + np.exp(log_variance.astype(np.float64) / 2) * noise.normals(uniforms)
            return z.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Bound:
    """The log of the mean weight of k draws of each image: [N] float32, nats."""

    draws: int

    def __call__(self, job: OneShotJob) -> Array:
        weights = job.output(LOG_WEIGHT).astype(np.float64).reshape(-1, self.draws)
        largest = weights.max(axis=1, keepdims=True)
        # Where no draw has any weight the bound is minus infinity, and not a difference of infinities.
        largest[np.isneginf(largest)] = 0
        with np.errstate(divide="ignore"):
            bound: Array = largest[:, 0] + np.log(np.exp(weights - largest).mean(axis=1))
        return bound.astype(np.float32)


@dataclass(frozen=True, slots=True)
class DrawLimit:
    """How many draws the likelihoods of a role may be made of."""

    weighs: bool
    exact: bool

    @staticmethod
    def of(program: Program) -> DrawLimit | None:
        """That of a program; None if it gives no likelihood of an image that it is given."""
        if program.outputs.keys().isdisjoint((LOG_LIKELIHOOD, LOG_WEIGHT)):
            return None
        exact = program.role.likelihood == bundle_pb2.LIKELIHOOD_EXACT
        return DrawLimit(LOG_WEIGHT in program.outputs, exact)

    def check(self, field: str, draws: int, images: int) -> int:
        """The draws of each of so many images."""
        if not self.weighs:
            if draws != 1:
                why = (
                    "the model's likelihood is exact"
                    if self.exact
                    else "its score gives no log-weights: export it anew"
                )
                raise InvalidArgument(field, f"is {draws}, must be unset or 1: {why}")
            return 1
        if not 1 <= draws <= MAX_DRAWS:
            raise InvalidArgument(field, f"is {draws}, must be 1 to {MAX_DRAWS}")
        if images * draws > MAX_DRAWS_OF_CALL:
            raise InvalidArgument(
                field,
                f"is {draws} for each of {images} images, {images * draws} in all, must be at most "
                f"{MAX_DRAWS_OF_CALL}: send at most {MAX_DRAWS_OF_CALL // draws} images at once",
            )
        return draws


def repeated(inputs: Mapping[Meaning, Array], draws: int) -> dict[Meaning, RowSource]:
    """Inputs with a row for each draw."""
    if draws == 1:
        return dict(inputs)
    return {meaning: Repeated(array, draws) for meaning, array in inputs.items()}
