"""A semi-supervised VAE: a class y and a latent z behind each image, the classes of few images known.

Kingma, Rezende, Mohamed & Welling 2014, "Semi-supervised Learning with Deep Generative Models" (arXiv 1406.5298), model
M2: p(x|y,z) with z ~ N(0, I) and y uniform, q(y|x) and q(z|x,y) given by one encoder (section 3.1.2). A labelled image
is trained by its bound L(x, y) (equation 6) and the classifier's log-loss (equation 9), an unlabelled one by the bound
that sums over the classes (equation 7). Two things of a recipe's choice make a classifier of a handful of labels good
that the bound alone does not: it has to know an image again in another view, and it learns from the bound only when it
is no beginner any more.

Letters: N images, H, W, C image axes, K classes, Z latent dimensions, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.augmentation import View
from ancestral_exporter.models.base import (
    OBJECTIVE,
    Angle,
    Count,
    Figure,
    ImageShape,
    LikelihoodModel,
    NotNegative,
    OneShotGraph,
    Positive,
    RasterGraph,
    Share,
    Terms,
)
from ancestral_exporter.models.likelihoods import PixelLikelihood, check_mixtures, likelihood, normals
from ancestral_exporter.models.quantise import inverse_cdf
from ancestral_exporter.models.roles import RoleGraph, image_tensor, one_shot, tensor
from ancestral_exporter.models.vae import Decoder, Encoder, FeaturesGraph

# An image whose class the classifier gives more than this counts as known in its other view (FixMatch, Sohn et al.
# 2020, table 4).
SURE = 0.95


@dataclass(frozen=True)
class SemiSupervisedSettings:
    """The `[model]` section of a recipe of the family "semi-supervised-vae".

    label_count: K. latent_size: Z. likelihood, mixtures, channels, features, blocks, start_channels, encoder_widths: as
    of the VAE. label_weight: of the classifier's log-loss of a labelled image (α of equation 9).

    view_weight: of its log-loss of another view of each image, moved by up to view_shift pixels and turned by up to
    view_rotation degrees, whose class is the image's label, or what the classifier is sure that the image shows, and
    which counts for nothing while it is not (FixMatch, Sohn et al. 2020).
    class_warmup_fraction: of all steps, over which what the bound tells the classifier grows from nothing to all:
    before the decoder knows classes the bound is best where q(y|x) settles on any of them.
    likely_classes: how many of an image's classes a training step sums over, the most probable by q(y|x), which is then
    made of these alone: a bound as well, and a step costs the decoder so many times. Unset, it is all of them.
    """

    label_count: Positive
    latent_size: Positive = 16
    likelihood: str = "categorical"
    mixtures: Positive | None = None
    channels: Positive = 32
    features: Positive = 256
    blocks: Count = 0
    start_channels: Positive | None = None
    encoder_widths: tuple[Positive, ...] | None = None
    encoder_dropout: Share = 0.0
    decoder_dropout: Share = 0.0
    label_weight: NotNegative = 50.0
    view_weight: NotNegative = 0.0
    view_shift: Count = 0
    view_rotation: Angle = 0.0
    class_warmup_fraction: Share = 0.0
    likely_classes: Positive | None = None

    def __post_init__(self) -> None:
        check_mixtures(self.likelihood, self.mixtures)
        if (self.likely_classes or 1) > self.label_count:
            raise ValueError(f"likely_classes is {self.likely_classes}, more than label_count, {self.label_count}")
        if self.view_weight and not (self.view_shift or self.view_rotation):
            raise ValueError("view_weight needs a view_shift or a view_rotation: else a view is the image itself")
        if (self.view_shift or self.view_rotation) and not self.view_weight:
            raise ValueError("view_shift and view_rotation need a view_weight: without one no view is looked at")


class SemiSupervisedVAE(LikelihoodModel):
    """See the module's text. An image without a label has the label -1."""

    family: ClassVar[str] = "semi-supervised-vae"
    settings_type: ClassVar[type[SemiSupervisedSettings]] = SemiSupervisedSettings
    likelihood: ClassVar[bundle_pb2.Likelihood.ValueType] = bundle_pb2.LIKELIHOOD_LOWER_BOUND
    # What the labels are for; the bound breaks ties through the classifier's own part in it.
    figure: ClassVar[Figure] = Figure("label_nats", "nats/label")
    takes_unlabelled: ClassVar[bool] = True
    units: ClassVar[Mapping[str, str]] = {"label_nats": "nats/label", "error": "share of images"}

    def __init__(self, image: ImageShape, settings: SemiSupervisedSettings) -> None:
        super().__init__(image, settings)
        self.label_count, self.latent_size = settings.label_count, settings.latent_size
        self.view = View(settings.view_shift, settings.view_rotation)
        self.view.check(image)
        self.pixels: PixelLikelihood = likelihood(settings.likelihood, image, settings.mixtures)
        self.discrete = self.pixels.discrete
        widths = settings.encoder_widths or (settings.channels, 2 * settings.channels)
        self.encoder = Encoder(image, widths, settings.blocks, settings.features, settings.encoder_dropout)
        self.classifier = nn.Linear(settings.features, settings.label_count)
        self.posterior = nn.Sequential(
            nn.Linear(settings.features + settings.label_count, settings.features),
            nn.SiLU(),
            nn.Linear(settings.features, 2 * settings.latent_size),
        )
        self.decoder = Decoder(
            image,
            settings.latent_size + settings.label_count,
            self.pixels.parameters_per_value,
            settings.channels,
            settings.blocks,
            settings.features,
            settings.decoder_dropout,
            settings.start_channels,
        )

    def moments(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x,y), each [N,Z], of features [N,F] and labels [N]."""
        classes = self._one_hot(labels)
        mean, log_variance = self.posterior(torch.cat([features, classes], dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 8)

    def parameters_of(self, z: Tensor, labels: Tensor) -> Tensor:
        """The parameters [N,H,W,C,P] of p(x|y,z)."""
        return cast(Tensor, self.decoder(torch.cat([z, self._one_hot(labels)], dim=1)))

    def bound(self, images: Tensor, features: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """−L(x, y) [N], nats: a lower bound of log p(x, y), with one draw of z (equation 6); noise [N,Z] is normal."""
        mean, log_variance = self.moments(features, labels)
        z = mean + torch.exp(0.5 * log_variance) * noise
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance).sum(1)
        return self.pixels.log_prob(self.parameters_of(z, labels), images) - kl - math.log(self.label_count)

    def unlabelled_bound(
        self, images: Tensor, features: Tensor, noise: Tensor, classes: int | None = None, taught: float = 1.0
    ) -> Tensor:
        """A lower bound of log p(x) [N]: E_q(y|x)[−L(x, y)] and the entropy of q(y|x) (equation 7).

        classes: the most probable ones that q(y|x) is made of, all where None. taught: the share of its gradient that
        the classifier gets.
        """
        logits = self.classifier(features)
        logits = taught * logits + (1 - taught) * logits.detach()
        best, labels = logits.topk(classes or self.label_count, dim=1)  # [N,classes]
        log_q = functional.log_softmax(best, dim=1)
        # Image 0 with each of its classes, then image 1 with each of its, ...
        times = labels.shape[1]
        repeated = [values.repeat_interleave(times, dim=0) for values in (images, features, noise)]
        joint = self.bound(repeated[0], repeated[1], labels.flatten(), repeated[2])
        return (log_q.exp() * (joint.view(-1, times) - log_q)).sum(1)

    def log_weight(self, images: Tensor, noise: Tensor, uniforms: Tensor) -> Tensor:
        """ln p(x,y,z) − ln q(y,z|x) [N], nats, at a class y and a z drawn from q.

        Its mean over draws is that of `unlabelled_bound`. noise [N,Z] is standard normal and makes z, uniforms [N] in
        [0,1) make y.
        """
        features = self.encoder(images)
        logits = self.classifier(features)
        labels = inverse_cdf(logits, uniforms)
        mean, log_variance = self.moments(features, labels)
        z = mean + torch.exp(0.5 * log_variance) * noise
        log_q = functional.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        # Of the normals of z as in `VAE.log_weight`; the classes are equally likely.
        log_ratio = 0.5 * (noise**2 + log_variance - z**2).sum(1) - math.log(self.label_count) - log_q
        return self.pixels.log_prob(self.parameters_of(z, labels), images) + log_ratio

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        settings = self.settings
        features = self.encoder(images)
        noise = torch.randn(len(images), self.latent_size, device=images.device)
        known = labels >= 0
        taught = min(1.0, progress / warmup) if (warmup := settings.class_warmup_fraction) else 1.0
        objective = torch.zeros(len(images), device=images.device)
        objective[~known] = -self.unlabelled_bound(
            images[~known], features[~known], noise[~known], settings.likely_classes, taught
        )
        if bool(known.any()):
            nats = functional.cross_entropy(self.classifier(features[known]), labels[known], reduction="none")
            joint = self.bound(images[known], features[known], labels[known], noise[known])
            objective[known] = settings.label_weight * nats - joint
        if settings.view_weight:
            objective = objective + settings.view_weight * self._view_nats(images, features, labels)
        return {OBJECTIVE: objective, "loss": objective}

    def _view_nats(self, images: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """The classifier's log-loss [N] of another view of each image, 0 where nobody knows the class."""
        share, guess = functional.softmax(self.classifier(features).detach(), dim=1).max(dim=1)
        known = labels >= 0
        nats = functional.cross_entropy(
            self.classifier(self.encoder(self.view.of(images))), torch.where(known, labels, guess), reduction="none"
        )
        return nats * (known | (share > SURE))

    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Terms:
        features = self.encoder(images)
        noise = torch.randn(len(images), self.latent_size, device=images.device)
        return {"loss": -self.unlabelled_bound(images, features, noise)}

    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        logits = self.classifier(self.encoder(images))
        return {
            **super().validation_terms(images, labels),
            "label_nats": functional.cross_entropy(logits, labels, reduction="none"),
            "error": (logits.argmax(1) != labels).float(),
        }

    def _one_hot(self, labels: Tensor) -> Tensor:
        return (labels.unsqueeze(-1) == torch.arange(self.label_count, device=labels.device)).to(torch.float32)

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        image = image_tensor(self.image)
        noise = tensor("uniforms", bundle_pb2.MEANING_UNIFORMS, (2 * self.latent_size + 1,))
        label = tensor("label", bundle_pb2.MEANING_LABEL, dtype=tensor_pb2.DATA_TYPE_INT64)
        temperature = tensor("temperature", bundle_pb2.MEANING_TEMPERATURE)
        moments = [
            tensor("mean", bundle_pb2.MEANING_MEAN, (self.latent_size,)),
            tensor("log_variance", bundle_pb2.MEANING_LOG_VARIANCE, (self.latent_size,)),
        ]
        sample = SampleGraph(self)
        sample_noise = tensor("uniforms", bundle_pb2.MEANING_UNIFORMS, (sample.uniform_count,))
        score = one_shot(
            "score", [image, noise], [tensor("log_weight", bundle_pb2.MEANING_LOG_WEIGHT)], ScoreGraph(self)
        )
        score.roles[0].likelihood = self.likelihood
        return [
            one_shot(
                "classify",
                [image],
                [tensor("logits", bundle_pb2.MEANING_LOGITS, (self.label_count,))],
                ClassifyGraph(self),
            ),
            one_shot("encode", [image], moments, EncodeGraph(self)),
            one_shot("sample", [sample_noise, temperature, label], [image], sample),
            score,
            one_shot(
                "features",
                [image],
                [tensor("features", bundle_pb2.MEANING_FEATURES, (self.settings.features,))],
                FeaturesGraph(self),
            ),
        ]


class ClassifyGraph(RoleGraph[SemiSupervisedVAE]):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model.classifier(self.model.encoder(images)),)


class EncodeGraph(RoleGraph[SemiSupervisedVAE]):
    """q(z|x,y) at the class that the classifier finds most probable."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.encoder(images)
        return self.model.moments(features, self.model.classifier(features).argmax(1))


class SampleGraph(RoleGraph[SemiSupervisedVAE]):
    """z from the prior, then x given z and the label. Temperature acts on p(x|y,z) alone.

    uniforms [N, 2Z + U·H·W·C]: first the pairs that make z, then U per value of the image, U of the likelihood.
    """

    def __init__(self, model: SemiSupervisedVAE) -> None:
        super().__init__(model)
        per_value = model.pixels.uniforms_per_value
        self.pixel_shape = ((per_value,) if per_value > 1 else ()) + model.image.hwc
        self.latent_count = 2 * model.latent_size
        self.uniform_count = self.latent_count + per_value * model.image.values

    def forward(self, uniforms: Tensor, temperature: Tensor, label: Tensor) -> tuple[Tensor]:
        z = normals(uniforms[:, : self.latent_count].reshape(-1, 2, self.model.latent_size))
        pixels = uniforms[:, self.latent_count :].reshape(-1, *self.pixel_shape)
        return (self.model.pixels.sample(self.model.parameters_of(z, label), pixels, temperature),)


class ScoreGraph(RoleGraph[SemiSupervisedVAE]):
    """The log-weight of one draw of a class and of z.

    uniforms [N, 2Z + 1]: first the pairs that make z, then the one that makes the class.
    """

    def forward(self, images: Tensor, uniforms: Tensor) -> tuple[Tensor]:
        noise = normals(uniforms[:, :-1].reshape(-1, 2, self.model.latent_size))
        return (self.model.log_weight(images, noise, uniforms[:, -1]),)
