"""p(x|z): what a decoder's output says about pixels.

Parameters come as [N,H,W,C,P]: P numbers for each value of an image. Letters: N images, H, W, C image axes, K levels,
M logistics of a mixture.
Everything a graph needs (moments, sample, log_prob) is exportable, and noise is always an argument.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.quantise import from_levels, inverse_cdf, to_levels
from ancestral_exporter.models.values import MIXTURE, LogisticMixture, softplus


def normals(uniforms: Tensor) -> Tensor:
    """Standard normals [N,...] from independent uniforms [N,2,...] in [0,1) by Box & Muller (1958).

    1 − u is in (0,1], so the logarithm is finite; on the 2^-24 grid the largest normal is 5.77. In float64, since
    onnxruntime rounds logarithms and cosines at the end of a batch otherwise than those within.
    """
    wide = uniforms.double()
    radius = torch.sqrt(-2 * torch.log(1 - wide[:, 0]))
    return (radius * torch.cos(2 * math.pi * wide[:, 1])).to(uniforms.dtype)


def moments_of_levels(probabilities: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [N,H,W,C] float32, in units of bytes, of values whose levels have probabilities [N,H,W,C,K].

    The variance is a mean of squares about the mean: E[x²] − E[x]² would lose all digits where a pixel is certain.
    """
    values = from_levels(torch.arange(levels, device=probabilities.device), levels).to(torch.float32)
    mean = probabilities @ values
    offsets = values - mean.unsqueeze(-1)
    # A sum, as a product that adds in one order whatever the batch is: see bundle.reductions.
    return mean, (probabilities * offsets * offsets) @ torch.ones_like(values)


def nearest_bytes(intensities: Tensor) -> Tensor:
    """The nearest byte of intensities in units of bytes, uint8 of the same shape."""
    return torch.round(intensities.clamp(0, 255)).to(torch.uint8)


class PixelLikelihood(nn.Module, ABC):
    """A distribution of the pixels given the decoder's output; pixels are independent given z."""

    # P, numbers that the decoder gives per value.
    parameters_per_value: int
    # Uniforms that `sample` takes per value.
    uniforms_per_value: int = 1
    # Whether `log_prob` is of a probability mass, so that bits/dim may be held against other models'.
    discrete: bool = True

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    @abstractmethod
    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """log p(x|z) [N], nats, summed over the values of images [N,H,W,C] uint8."""

    @abstractmethod
    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """E[x|z] and Var[x|z] [N,H,W,C] float32, in units of bytes and of bytes squared."""

    @abstractmethod
    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        """x ~ p(x|z) [N,H,W,C] uint8; temperature [N], 0 giving the most likely value of each pixel.

        uniforms [N,H,W,C], or [N,2,H,W,C] where uniforms_per_value is 2.
        """


class Categorical(PixelLikelihood):
    """A softmax over the K levels of each value: any shape of distribution, and a mass, so its bits/dim compare.

    Kingma & Welling (arXiv 1312.6114) leave p(x|z) open; the 17-way softmax for digits follows jmtomczak/intro_dgm.
    """

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.parameters_per_value = levels

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        targets = to_levels(images, self.levels).unsqueeze(-1)
        return F.log_softmax(parameters, dim=-1).gather(-1, targets).flatten(1).sum(1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return moments_of_levels(F.softmax(parameters, dim=-1), self.levels)

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        return from_levels(inverse_cdf(parameters, uniforms, temperature.view(-1, 1, 1, 1)), self.levels)


class Bernoulli(PixelLikelihood):
    """One logit per value, for images of two levels (appendix C.1 of arXiv 1312.6114).

    Grey images under a Bernoulli have no likelihood (the "loss" of many tutorials is no NLL), so K must be 2.
    """

    parameters_per_value = 1

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        if levels != 2:
            raise UsageError(
                f"a Bernoulli likelihood is for images of 2 levels, not {levels}: use categorical or gaussian"
            )

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        signs = 2 * to_levels(images, 2).to(parameters.dtype) - 1
        # Not logsigmoid, which is exported as log(sigmoid(x)): minus infinity for logits below -100.
        return -softplus(-signs * parameters.squeeze(-1)).flatten(1).sum(1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        logits = parameters.squeeze(-1)
        # 1 - p would lose the digits of a p near 1.
        return 255 * torch.sigmoid(logits), 255**2 * torch.sigmoid(logits) * torch.sigmoid(-logits)

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        logits = torch.cat([torch.zeros_like(parameters), parameters], dim=-1)
        return from_levels(inverse_cdf(logits, uniforms, temperature.view(-1, 1, 1, 1)), 2)


class Gaussian(PixelLikelihood):
    """N(x; mean, diag(variance)) with both given by the decoder, x scaled to [0,1] (appendix C.2 of arXiv 1312.6114).

    This is a *density* of intensities: its log can be positive, depends on the scaling, and neither it nor its
    "bits/dim" can be compared with those of a categorical or Bernoulli model. The log-variance is kept above
    MIN_LOG_VARIANCE: a pixel that is constant in the training images would otherwise earn an unbounded density.
    """

    parameters_per_value = 2
    uniforms_per_value = 2
    discrete = False
    # A standard deviation of 0.03: half a level of 17.
    MIN_LOG_VARIANCE = -7.0

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [N,H,W,C]."""
        mean, free = parameters.unbind(-1)
        return mean, softplus(free - self.MIN_LOG_VARIANCE) + self.MIN_LOG_VARIANCE

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        mean, log_variance = self.split(parameters)
        x = to_levels(images, self.levels).to(mean.dtype) / (self.levels - 1)
        terms = math.log(2 * math.pi) + log_variance + (x - mean) ** 2 * torch.exp(-log_variance)
        return -0.5 * terms.flatten(1).sum(1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.split(parameters)
        return 255 * mean, 255**2 * torch.exp(log_variance)

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        mean, log_variance = self.split(parameters)
        # Temperature scales the standard deviation, so that 0 gives the mode.
        x = mean + temperature.view(-1, 1, 1, 1) * torch.exp(0.5 * log_variance) * normals(uniforms)
        return from_levels(torch.round(x.clamp(0, 1) * (self.levels - 1)), self.levels)


class MixtureOfLogistics(PixelLikelihood):
    """For each value a mixture of M logistics, rounded to levels: a mass, with few parameters however many levels.

    The centres of a pixel's later channels move linearly with its earlier ones, by coefficients that the decoder gives:
    green with red, blue with both (Salimans et al. 2017, "PixelCNN++", section 2.2). Other than there each channel has
    weights of its own for its mixture, so that one uniform draws it. P is (2 + C) M: those of `LogisticMixture`, then M
    coefficients for each channel before the last, of which a channel uses those of the channels before it.
    """

    def __init__(self, levels: int, channels: int, mixtures: int) -> None:
        super().__init__(levels)
        self.channels = channels
        self.values = LogisticMixture(levels, mixtures)
        self.parameters_per_value = self.values.parameters + (channels - 1) * mixtures

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        levels = to_levels(images, self.levels)
        seen, channel = self._scaled(levels), torch.arange(self.channels, device=levels.device)
        # All channels at once: a value moves those after its own, and is 0 to the others.
        earlier = [seen[..., c : c + 1] * (channel > c) for c in range(self.channels - 1)]
        return self.values.log_prob(self._given(parameters, earlier), levels).flatten(1).sum(1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """As `PixelLikelihood.moments`, but of intensities that are not rounded to levels yet.

        Of later channels: at the means of the earlier ones, of whose variance they have what a line passes on.
        """
        means: list[Tensor] = []
        variances: list[Tensor] = []
        # What each channel takes over of the own variance of those up to it, by channel: lines are followed to the end.
        shares: list[list[Tensor]] = []
        for c in range(self.channels):
            own = parameters[..., c, :]
            mean, variance = self.values.moments(self._given(own, [self._scaled(level) for level in means]))
            slopes = self._slopes(own)[:c]
            shares.append(
                [sum((slopes[k] * shares[k][j] for k in range(j, c)), torch.zeros_like(mean)) for j in range(c)]
                + [torch.ones_like(mean)]
            )
            means.append(mean)
            variances.append(variance)
        total = [
            sum((share * share * variances[j] for j, share in enumerate(row)), torch.zeros_like(means[0]))
            for row in shares
        ]
        unit = 255 / (self.levels - 1)
        return torch.stack(means, dim=-1) * unit, torch.stack(total, dim=-1) * unit**2

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        """As `PixelLikelihood.sample`; temperature 0 takes the centre of a mixture's weightiest logistic."""
        drawn: list[Tensor] = []
        for c in range(self.channels):
            given = self._given(parameters[..., c, :], [self._scaled(levels) for levels in drawn])
            drawn.append(self.values.draw(given, uniforms[..., c], temperature.view(-1, 1, 1)))
        return from_levels(torch.stack(drawn, dim=-1), self.levels)

    def _scaled(self, levels: Tensor) -> Tensor:
        """[-1,1] for levels 0 to K − 1."""
        return levels.float() * (2 / (self.levels - 1)) - 1

    def _given(self, parameters: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        """The parameters [...,3M] of mixtures, of parameters [...,P] and the values [...] of earlier channels."""
        logits, centres, rates, *coefficients = parameters.float().chunk(2 + self.channels, dim=-1)
        for coefficient, value in zip(coefficients, earlier, strict=False):
            centres = centres + torch.tanh(coefficient) * value.unsqueeze(-1)
        return torch.cat([logits, centres, rates], dim=-1)

    def _slopes(self, parameters: Tensor) -> list[Tensor]:
        """How far a channel's mean moves with each channel before the last, [...] each, of parameters [...,P]."""
        logits, _, _, *coefficients = parameters.float().chunk(2 + self.channels, dim=-1)
        weights = F.softmax(logits, dim=-1).unsqueeze(-2)
        return [(weights @ torch.tanh(one).unsqueeze(-1)).squeeze(-1).squeeze(-1) for one in coefficients]


_BY_LEVELS: dict[str, type[Bernoulli | Categorical | Gaussian]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "gaussian": Gaussian,
}
LIKELIHOODS = (*_BY_LEVELS, MIXTURE)
# Logistics of a value, where a recipe does not say. PixelCNN++ has 10 for pixels of any colour; a value needs fewer.
MIXTURES = 5


def check_mixtures(likelihood: str, mixtures: int | None) -> None:
    """Raises ValueError where a number of logistics is set and would mean nothing."""
    if mixtures is not None and likelihood != MIXTURE:
        raise ValueError(f"mixtures has no effect with likelihood = {likelihood!r}; leave it out")


def likelihood(name: str, image: ImageShape, mixtures: int | None = None) -> PixelLikelihood:
    """The likelihood of that name for such images; mixtures: M, MIXTURES where unset.

    Raises UsageError for an unknown name, and where the images have too many or too few levels for it.
    """
    if name == MIXTURE:
        return MixtureOfLogistics(image.levels, image.channels, mixtures or MIXTURES)
    if name not in LIKELIHOODS:
        raise UsageError(f"unknown likelihood {name!r}; there are: {', '.join(LIKELIHOODS)}")
    return _BY_LEVELS[name](image.levels)
