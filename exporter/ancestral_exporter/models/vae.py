"""A convolutional variational autoencoder.

Kingma & Welling, "Auto-Encoding Variational Bayes", arXiv 1312.6114: z ~ N(0, I), x ~ p(x|z), and q(z|x) = N(mean,
diag(exp(log_variance))) given by an encoder (section 3). Letters: N images, H, W, C image axes, K levels, Z latent
dimensions, M channels, F features, P parameters per value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ancestral.v1 import bundle_pb2
from ancestral_exporter.augmentation import View
from ancestral_exporter.models.base import (
    OBJECTIVE,
    Angle,
    Count,
    ImageShape,
    LikelihoodModel,
    NotNegative,
    OneShotGraph,
    Positive,
    RasterGraph,
    Share,
    Terms,
)
from ancestral_exporter.models.likelihoods import (
    PixelLikelihood,
    check_mixtures,
    likelihood,
    nearest_bytes,
    normals,
)
from ancestral_exporter.models.quantise import to_levels
from ancestral_exporter.models.roles import RoleGraph, image_tensor, one_shot, tensor


class Residual(nn.Module):
    """x + a 3×3 and a 1×1 convolution of x; [N,M,H,W] in and out."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.body(x))


class Encoder(nn.Module):
    """Images [N,H,W,C] uint8 to features [N,F]: a halving of the image for each width, then one dense layer.

    widths: M after each halving. Nothing but the first convolution reads the image at full size: on small images that
    is where the time would go.
    """

    def __init__(self, image: ImageShape, widths: tuple[int, ...], blocks: int, features: int, dropout: float) -> None:
        super().__init__()
        # What the first convolution reads for each byte, in [-1, 1]: a look-up instead of seven operations, for each of
        # which a single image would wait.
        table = to_levels(torch.arange(256), image.levels).to(torch.float32) * (2 / (image.levels - 1)) - 1
        self.table: Tensor
        self.register_buffer("table", table[:, None], persistent=False)
        layers: list[nn.Module] = []
        inputs, height, width = image.channels, image.height, image.width
        for channels in widths:
            layers.append(nn.Conv2d(inputs, channels, 3, stride=2, padding=1))
            layers += [Residual(channels, dropout) for _ in range(blocks)]
            layers.append(nn.SiLU())
            inputs, height, width = channels, -(-height // 2), -(-width // 2)
        self.convolutions = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.dense = nn.Linear(inputs * height * width, features)

    def forward(self, images: Tensor) -> Tensor:
        x = F.embedding(images.permute(0, 3, 1, 2).to(torch.int32), self.table).squeeze(-1)
        return F.silu(self.dense(self.convolutions(x)))


class FeaturesGraph(RoleGraph[nn.Module]):
    """What the `encoder` of a model makes of images."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (cast(Encoder, self.model.encoder)(images),)


class Decoder(nn.Module):
    """Latents [N,Z] to the parameters [N,H,W,C,P] of p(x|z); the encoder mirrored.

    start_channels: that the dense layers give, which a convolution makes 2M of; 2M themselves where unset.
    """

    def __init__(
        self,
        image: ImageShape,
        latent_size: int,
        parameters: int,
        channels: int,
        blocks: int,
        features: int,
        dropout: float,
        start_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.image, self.parameters_per_value = image, parameters
        self.start = (start_channels or 2 * channels, *_quarter(image))
        self.dense = nn.Sequential(
            nn.Linear(latent_size, features),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(features, self.start[0] * self.start[1] * self.start[2]),
        )
        widen = [nn.Conv2d(start_channels, 2 * channels, 3, padding=1)] if start_channels else []
        self.convolutions = nn.Sequential(
            *widen,
            *[Residual(2 * channels, dropout) for _ in range(blocks)],
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            *[Residual(channels, dropout) for _ in range(blocks)],
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.ConvTranspose2d(channels, image.channels * parameters, 4, stride=2, padding=1, bias=False),
        )
        # Digits are centred: what a pixel is like on average depends on its place, which a convolution cannot see.
        self.bias = nn.Parameter(torch.zeros(image.height, image.width, image.channels, parameters))

    def forward(self, z: Tensor) -> Tensor:
        x = self.convolutions(self.dense(z).view(-1, *self.start))
        x = x[:, :, : self.image.height, : self.image.width].permute(0, 2, 3, 1)
        return cast(Tensor, x.reshape(-1, *self.bias.shape) + self.bias)


def _quarter(image: ImageShape) -> tuple[int, int]:
    """H and W after two halvings, rounded up."""
    return -(-image.height // 4), -(-image.width // 4)


@dataclass(frozen=True)
class VAESettings:
    """The `[model]` section of a recipe of the family "vae".

    likelihood: p(x|z), one of likelihoods.LIKELIHOODS. mixtures: logistics of a value where it is a mixture of them,
    likelihoods.MIXTURES where unset. latent_size: Z. channels, blocks, features: M, the residual
    blocks after each change of size, and F, of the decoder; of the encoder too unless `encoder_...` says otherwise: the
    encoder is asked for one image at a time, so it may have to be light. start_channels: of the decoder's smallest
    image, fewer than its convolutions have: its dense layer is most of a small net, and lies in three graphs.

    The loss is reconstruction + weight · KL. kl_warmup_fraction: of all steps, over which the weight grows from 0 to
    `beta`, or q(z|x) may settle at the prior (Bowman et al. 2016, section 3.1). beta: below 1 keeps more of an image in
    z, above 1 less (Higgins et al. 2017). free_bits: nats of each latent's mean KL that cost nothing (Kingma et al.
    2016, appendix C.8). importance_samples: draws of z for each image and step; with more than one the bound of so many
    draws is maximised in place of the ELBO (Burda et al. 2016, "Importance Weighted Autoencoders", section 3), which
    knows no weight of the KL. A step costs the decoder so many times. Validation always measures the ELBO.

    view_shift, view_rotation: in training the encoder sees each image moved by up to so many pixels and turned by up to
    so many degrees, and the decoder is to draw it as it was: so z need not tell what a view changes, which few labels
    would have to teach a classifier otherwise. As in a denoising autoencoder (Vincent et al. 2008).
    """

    latent_size: Positive
    likelihood: str = "categorical"
    mixtures: Positive | None = None
    channels: Positive = 32
    features: Positive = 256
    blocks: Count = 1
    start_channels: Positive | None = None
    encoder_widths: tuple[Positive, ...] | None = None
    encoder_blocks: Count | None = None
    encoder_features: Positive | None = None
    encoder_dropout: Share = 0.0
    decoder_dropout: Share = 0.0
    kl_warmup_fraction: Share = 0.0
    beta: NotNegative = 1.0
    free_bits: NotNegative = 0.0
    importance_samples: Positive = 1
    view_shift: Count = 0
    view_rotation: Angle = 0.0

    def __post_init__(self) -> None:
        check_mixtures(self.likelihood, self.mixtures)
        if self.importance_samples > 1 and (self.beta != 1 or self.free_bits or self.kl_warmup_fraction):
            raise ValueError(
                f"importance_samples is {self.importance_samples}: above 1 the KL has no weight of its own, so beta "
                "must be 1, and free_bits and kl_warmup_fraction 0"
            )


class VAE(LikelihoodModel):
    """See the module's text."""

    family: ClassVar[str] = "vae"
    settings_type: ClassVar[type[VAESettings]] = VAESettings
    likelihood: ClassVar[bundle_pb2.Likelihood.ValueType] = bundle_pb2.LIKELIHOOD_LOWER_BOUND

    def __init__(self, image: ImageShape, settings: VAESettings) -> None:
        super().__init__(image, settings)
        self.latent_size = settings.latent_size
        self.view = View(settings.view_shift, settings.view_rotation)
        self.view.check(image)
        self.feature_count = settings.encoder_features or settings.features
        self.pixels: PixelLikelihood = likelihood(settings.likelihood, image, settings.mixtures)
        self.discrete = self.pixels.discrete
        self.encoder = Encoder(
            image,
            settings.encoder_widths or (settings.channels, 2 * settings.channels),
            settings.blocks if settings.encoder_blocks is None else settings.encoder_blocks,
            self.feature_count,
            settings.encoder_dropout,
        )
        self.posterior = nn.Linear(self.feature_count, 2 * self.latent_size)
        self.decoder = Decoder(
            image,
            self.latent_size,
            self.pixels.parameters_per_value,
            settings.channels,
            settings.blocks,
            settings.features,
            settings.decoder_dropout,
            settings.start_channels,
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each [N,Z], of images [N,H,W,C] uint8."""
        mean, log_variance = self.posterior(self.encoder(images)).chunk(2, dim=1)
        # A variance that over- or underflows ends a training: keep the standard deviation within 0.002 and 55.
        return mean, log_variance.clamp(-12, 8)

    def evidence(self, images: Tensor, noise: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log p(x|z) [N] at z = mean + std · noise, and each latent's KL(q(z|x) || p(z)) [N,Z], nats.

        noise [N,Z] is standard normal. seen: what q is given in place of the images, of the same shape. The first less
        the sum of the second estimates the ELBO with one draw of z and the divergence in closed form (section 2.3 and
        appendix B).
        """
        mean, log_variance = self.encode(images if seen is None else seen)
        z = mean + torch.exp(0.5 * log_variance) * noise
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance)
        return self.pixels.log_prob(self.decoder(z), images), kl

    def log_weight(self, images: Tensor, noise: Tensor) -> Tensor:
        """ln p(x,z) − ln q(z|x) [N], nats, at z = mean + std · noise; noise [N,Z] is standard normal.

        Its mean over draws is the ELBO; the log of the mean of exp of k of them is the bound of k draws (Burda et al.
        2016, "Importance Weighted Autoencoders", equation 8).
        """
        return self._log_weight(images, *self.encode(images), noise)

    def _log_weight(self, images: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        z = mean + torch.exp(0.5 * log_variance) * noise
        # Of both normals the squares and the logs of the deviations; what they share cancels.
        return self.pixels.log_prob(self.decoder(z), images) + 0.5 * (noise**2 + log_variance - z**2).sum(1)

    def importance_weighted_bound(self, images: Tensor, noise: Tensor, seen: Tensor | None = None) -> Tensor:
        """The bound of k draws [N], nats: ln of the mean weight, of noise [k,N,Z]; seen: as of `evidence`."""
        draws = len(noise)
        # Each image is encoded once.
        mean, log_variance = (moment.repeat(draws, 1) for moment in self.encode(images if seen is None else seen))
        weights = self._log_weight(images.repeat(draws, 1, 1, 1), mean, log_variance, noise.flatten(0, 1))
        return torch.logsumexp(weights.view(draws, -1), dim=0) - math.log(draws)

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        seen = self.view.of(images)
        if (draws := self.settings.importance_samples) > 1:
            noise = torch.randn(draws, len(images), self.latent_size, device=images.device)
            terms = {"loss": -self.importance_weighted_bound(images, noise, seen)}
            return {OBJECTIVE: terms["loss"], **self.in_bits(terms)}
        log_likelihood, kl = self.evidence(images, self._noise(images), seen)
        warmup, free = self.settings.kl_warmup_fraction, self.settings.free_bits
        weight = self.settings.beta * (min(1.0, progress / warmup) if warmup else 1.0)
        paid = kl.mean(0).clamp(min=free).sum() if free else kl.sum(1)
        return {OBJECTIVE: weight * paid - log_likelihood, **self.in_bits(self._terms(log_likelihood, kl))}

    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Terms:
        return self._terms(*self.evidence(images, self._noise(images)))

    def _noise(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), self.latent_size, device=images.device)

    @staticmethod
    def _terms(log_likelihood: Tensor, kl: Tensor) -> Terms:
        divergence = kl.sum(1)
        return {"loss": divergence - log_likelihood, "reconstruction": -log_likelihood, "kl": divergence}

    def regions(self) -> Sequence[nn.Module]:
        return [self.encoder, self.decoder]

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        image = image_tensor(self.image)
        noise = tensor("uniforms", bundle_pb2.MEANING_UNIFORMS, (2, self.latent_size))
        latent = tensor("latent", bundle_pb2.MEANING_LATENT, (self.latent_size,))
        moments = [
            tensor("mean", bundle_pb2.MEANING_MEAN, (self.latent_size,)),
            tensor("log_variance", bundle_pb2.MEANING_LOG_VARIANCE, (self.latent_size,)),
        ]
        sample = SampleGraph(self)
        sample_noise = tensor("uniforms", bundle_pb2.MEANING_UNIFORMS, (sample.uniform_count,))
        temperature = tensor("temperature", bundle_pb2.MEANING_TEMPERATURE)
        features = tensor("features", bundle_pb2.MEANING_FEATURES, (self.feature_count,))
        pixels = [
            tensor("pixel_mean", bundle_pb2.MEANING_PIXEL_MEAN, self.image.hwc),
            tensor("pixel_variance", bundle_pb2.MEANING_PIXEL_VARIANCE, self.image.hwc),
        ]
        log_weight = tensor("log_weight", bundle_pb2.MEANING_LOG_WEIGHT)
        score = one_shot("score", [image, noise], [log_weight], ScoreGraph(self))
        score.roles[0].likelihood = self.likelihood
        return [
            one_shot("encode", [image], moments, EncodeGraph(self)),
            one_shot("decode", [latent], [image, *pixels], DecodeGraph(self)),
            one_shot("sample", [sample_noise, temperature], [image], sample),
            score,
            one_shot("features", [image], [features], FeaturesGraph(self)),
        ]


class EncodeGraph(RoleGraph[VAE]):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(images)


class DecodeGraph(RoleGraph[VAE]):
    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = self.model.pixels.moments(self.model.decoder(latent))
        return nearest_bytes(mean), mean, variance


class SampleGraph(RoleGraph[VAE]):
    """Ancestral sampling: z from the prior, then x given z. Temperature acts on p(x|z) alone.

    uniforms [N, 2Z + U·H·W·C]: first the pairs that make z, then U per value of the image, U of the likelihood.
    """

    def __init__(self, model: VAE) -> None:
        super().__init__(model)
        image = model.image
        per_value = model.pixels.uniforms_per_value
        self.pixel_shape = ((per_value,) if per_value > 1 else ()) + (image.height, image.width, image.channels)
        self.latent_count = 2 * model.latent_size
        self.uniform_count = self.latent_count + per_value * image.height * image.width * image.channels

    def forward(self, uniforms: Tensor, temperature: Tensor) -> tuple[Tensor]:
        z = normals(uniforms[:, : self.latent_count].reshape(-1, 2, self.model.latent_size))
        pixels = uniforms[:, self.latent_count :].reshape(-1, *self.pixel_shape)
        return (self.model.pixels.sample(self.model.decoder(z), pixels, temperature),)


class ScoreGraph(RoleGraph[VAE]):
    """The log-weight of one draw of z: a lower bound of log p(x) in expectation over the noise."""

    def forward(self, images: Tensor, uniforms: Tensor) -> tuple[Tensor]:
        return (self.model.log_weight(images, normals(uniforms)),)
