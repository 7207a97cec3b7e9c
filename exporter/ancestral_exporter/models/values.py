"""The distribution of one value of an image over its K levels, given what a net says of it.

An autoregressive model draws value after value from one, and a decoder's p(x|z) may be made of them. Everything is
exportable, and one uniform makes one level. Letters: K levels, P parameters of a value, M logistics of a mixture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.quantise import COLDEST, inverse_cdf

MIXTURE = "mixture-of-logistics"


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) by a softmax of two: onnxruntime rounds its own softplus otherwise at the end of a batch."""
    return -functional.log_softmax(torch.stack([torch.zeros_like(x), x], dim=-1), dim=-1)[..., 0]


class ValueDistribution(ABC):
    """P numbers say how likely each of the K levels is. `parameters` is P."""

    parameters: int

    @abstractmethod
    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        """Natural log of the probability [...] of levels [...] int64, given parameters [...,P]."""

    @abstractmethod
    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Levels [...] int64, from parameters [...,P] and one uniform in [0,1) each.

        temperature broadcasts against uniforms: 1 draws with the probabilities of `log_prob`, 0 leaves no choice.
        """


class Softmax(ValueDistribution):
    """A logit for each level. Temperature divides the logits, so that 0 takes the most likely level."""

    def __init__(self, levels: int) -> None:
        self.parameters = levels

    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        return functional.log_softmax(parameters.float(), dim=-1).gather(-1, levels.unsqueeze(-1)).squeeze(-1)

    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return inverse_cdf(parameters, uniforms, temperature)


class LogisticMixture(ValueDistribution):
    """M logistic densities, rounded to levels (Salimans et al. 2017, "PixelCNN++", section 2.1).

    Level k has what the mixture has between k − ½ and k + ½; the first and the last level have the tails as well.
    Parameters are M logits, M centres in [−1,1] and M rates, in this order. A rate r stands for the sharpness
    δ = log(1 + exp(r)), one over the logistic's scale in levels. Then 1 − exp(−δ) = σ(r), and with b and a = b − δ at
    the upper and the lower edge of a level σ(b) − σ(a) = σ(b) σ(−a) σ(r): the log of a level's probability is a sum of
    three that neither cancel nor underflow.

    Temperature divides the logits of the mixture and multiplies the scales: 0 takes the centre of its weightiest
    logistic.
    """

    def __init__(self, levels: int, mixtures: int) -> None:
        if levels < 3:
            raise UsageError(
                f"a {MIXTURE} is for images of 3 levels or more, not {levels}: use bernoulli or categorical"
            )
        self.levels, self.mixtures = levels, mixtures
        self.parameters = 3 * mixtures
        # A level is looked for in two steps, of so many levels and of one: 30 thresholds instead of 255.
        self.step = math.isqrt(levels - 1) + 1
        self.coarse = [self.step * (i + 1) - 0.5 for i in range(-(-levels // self.step) - 1)]
        self.fine = [i + 0.5 for i in range(self.step - 1)]
        # What a net's zeros mean: centres spread over the levels, with scales of an eighth of them.
        self.centres = [(2 * i + 1) / mixtures - 1 for i in range(mixtures)]
        self.rate = _rate(8 / (levels - 1))
        # A scale of four times all levels is as good as flat; beyond, float32 loses the differences of a CDF.
        self.least_rate = _rate(0.25 / (levels - 1))

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, centres in levels, and rates, each [...,M] float32."""
        logits, centres, rates = parameters.float().chunk(3, dim=-1)
        spread = torch.tensor(self.centres, device=parameters.device)
        positions = (centres + spread + 1) * ((self.levels - 1) / 2)
        return logits, positions, (rates + self.rate).clamp_min(self.least_rate)

    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        logits, positions, rates = self.split(parameters)
        sharpness, offsets = softplus(rates), levels.unsqueeze(-1) - positions
        below_upper = -softplus(-sharpness * (offsets + 0.5))
        above_lower = -softplus(sharpness * (offsets - 0.5))
        within = below_upper + above_lower - softplus(-rates)
        first, last = (levels == 0).unsqueeze(-1), (levels == self.levels - 1).unsqueeze(-1)
        scores = torch.where(first, below_upper, torch.where(last, above_lower, within))
        joint = functional.log_softmax(logits, dim=-1) + scores
        # The log of the sum of exp(joint): any entry less its log-softmax is it; the largest loses no digits.
        return joint.amax(-1) - functional.log_softmax(joint, dim=-1).amax(-1)

    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """The level is the number of thresholds k + ½ at which the distribution function is <= u."""
        inverse = torch.as_tensor(temperature, dtype=torch.float32, device=parameters.device).clamp_min(COLDEST)
        inverse = inverse.reciprocal().unsqueeze(-1)
        logits, positions, rates = self.split(parameters)
        weights = functional.softmax(logits * inverse, dim=-1).unsqueeze(-2)  # [...,1,M]
        sharpness = (softplus(rates) * inverse).unsqueeze(-1)
        positions, wanted = positions.unsqueeze(-1), uniforms.unsqueeze(-1)

        def passed(thresholds: Tensor) -> Tensor:
            """How many of thresholds [...,T] lie below the level: [...] int64."""
            # A product for each value, which adds in one order whatever the batch is: see bundle.reductions.
            cdf = weights @ torch.sigmoid(sharpness * (thresholds.unsqueeze(-2) - positions))  # [...,1,T]
            return (cdf.squeeze(-2) <= wanted).sum(-1)

        block = self.step * passed(torch.tensor(self.coarse, device=parameters.device))
        fine = torch.tensor(self.fine, device=parameters.device)
        return (block + passed(block.unsqueeze(-1) + fine)).clamp_max(self.levels - 1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [...] float32, in levels, of the mixture cut off at both ends but not yet rounded.

        The mean differs from that of the levels by less than half of one. There are closed forms: cut to [0, L], a
        logistic has the mean ∫ (1 − F(t)) dt, and about any point c the mean square ∫ 2 |t − c| (1 − F(t)) dt above c
        and the same of F below. About its own centre it loses no digits, however sure it is.
        """
        logits, positions, rates = self.split(parameters)
        sharpness, end = softplus(rates), self.levels - 1
        weights = functional.softmax(logits, dim=-1).unsqueeze(-2)

        def weighed(values: Tensor) -> Tensor:
            """Means [...] over the logistics of values [...,M], by products: see bundle.reductions."""
            return (weights @ values.unsqueeze(-1)).squeeze(-1).squeeze(-1)

        above_start, above_end = softplus(sharpness * positions), softplus(sharpness * (positions - end))
        below_start = softplus(-sharpness * positions)
        means = (above_start - above_end) / sharpness
        mean = weighed(means)
        centres = positions.clamp(0, end)
        offsets = torch.stack([positions - centres, positions - end, centres - positions, -positions], dim=-1)
        first, second, third, fourth = _integral_of_softplus(sharpness.unsqueeze(-1) * offsets).unbind(-1)
        squares = (
            2
            / sharpness
            * ((first - second + third - fourth) / sharpness - (end - centres) * above_end - centres * below_start)
        )
        apart = centres - mean.unsqueeze(-1)
        return mean, weighed(squares.clamp_min(0) + apart * (2 * (means - centres) + apart)).clamp_min(0)


def _integral_of_softplus(x: Tensor) -> Tensor:
    """∫ log(1 + exp(y)) dy from −∞ to x: minus the dilogarithm of −exp(x)."""
    decayed = torch.exp(-x.abs())
    tail = torch.zeros_like(x)
    for coefficient in _DILOGARITHM:
        tail = (tail + coefficient) * decayed
    return torch.where(x <= 0, tail, math.pi**2 / 6 + x * x / 2 - tail)


def _dilogarithm() -> list[float]:
    """Coefficients, the highest first, of a polynomial of q that is Σ (−1)ⁿ⁺¹ qⁿ / n², for q in [0,1], to 1e-7.

    The sum is computed at the points of Chebyshev as an integral, ∫ log(1 + q t) / t dt over [0,1].
    """
    degree = 8
    points = (1 + np.cos((np.arange(degree) + 0.5) * np.pi / degree)) / 2
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t = (1 + nodes) / 2
    sums = (np.log1p(points[:, None] * t) / t) @ (weights / 2)
    fitted = np.polynomial.polynomial.polyfit(points, sums / points, degree - 1)
    return [float(coefficient) for coefficient in fitted[::-1]]


_DILOGARITHM = _dilogarithm()


def _rate(sharpness: float) -> float:
    """The rate that stands for a sharpness."""
    return math.log(math.expm1(sharpness))
