"""A convolutional autoencoder: images squeezed through Z numbers and drawn again, judged by squared error.

It has no distribution: nothing to sample, no likelihood. What it is for are its codes, as features of few dimensions
(Hinton & Salakhutdinov 2006), and an encoder that a classifier may begin from. With `noise` it must remove noise from
its input, which keeps a wide code from copying pixels (Vincent et al. 2008). The nets are the VAE's.

Letters: N images, H, W, C image axes, Z code size, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ancestral.v1 import bundle_pb2
from ancestral_exporter.models.base import (
    OBJECTIVE,
    Count,
    Figure,
    ImageModel,
    ImageShape,
    OneShotGraph,
    Positive,
    RasterGraph,
    Share,
    Terms,
)
from ancestral_exporter.models.roles import RoleGraph, image_tensor, one_shot, tensor
from ancestral_exporter.models.vae import Decoder, Encoder, FeaturesGraph


@dataclass(frozen=True)
class AutoencoderSettings:
    """The `[model]` section of a recipe of the family "autoencoder".

    latent_size: Z. channels, blocks, features: as of the VAE. noise: the share of an image's values that a training
    step replaces by values of other images in the batch.
    """

    latent_size: Positive
    channels: Positive = 32
    features: Positive = 256
    blocks: Count = 0
    dropout: Share = 0.0
    noise: Share = 0.0


class Autoencoder(ImageModel):
    """See the module's text."""

    family: ClassVar[str] = "autoencoder"
    settings_type: ClassVar[type[AutoencoderSettings]] = AutoencoderSettings
    figure: ClassVar[Figure] = Figure("squared_error", "squared error per image, intensities in [0,1]")

    def __init__(self, image: ImageShape, settings: AutoencoderSettings) -> None:
        super().__init__(image, settings)
        self.latent_size = settings.latent_size
        widths = (settings.channels, 2 * settings.channels)
        self.encoder = Encoder(image, widths, settings.blocks, settings.features, settings.dropout)
        self.code = nn.Linear(settings.features, settings.latent_size)
        self.decoder = Decoder(
            image, settings.latent_size, 1, settings.channels, settings.blocks, settings.features, settings.dropout
        )

    def encode(self, images: Tensor) -> Tensor:
        """Codes [N,Z] of images [N,H,W,C] uint8."""
        return cast(Tensor, self.code(self.encoder(images)))

    def decode(self, codes: Tensor) -> Tensor:
        """Intensities [N,H,W,C] in (0,1) of codes [N,Z]."""
        return torch.sigmoid(self.decoder(codes).squeeze(-1))

    def squared_error(self, seen: Tensor, images: Tensor) -> Tensor:
        """Between what is drawn of `seen` and `images`, both [N,H,W,C] uint8: [N], summed over the values."""
        difference = self.decode(self.encode(seen)) - images.float() / 255
        return difference.pow(2).flatten(1).sum(1)

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        seen = images
        if self.settings.noise:
            replaced = torch.rand(images.shape, device=images.device) < self.settings.noise
            seen = torch.where(replaced, images[torch.randperm(len(images), device=images.device)], images)
        error = self.squared_error(seen, images)
        return {OBJECTIVE: error, "squared_error": error}

    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        return {"squared_error": self.squared_error(images, images)}

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        image = image_tensor(self.image)
        features = tensor("features", bundle_pb2.MEANING_FEATURES, (self.settings.features,))
        return [
            one_shot(
                "encode", [image], [tensor("mean", bundle_pb2.MEANING_MEAN, (self.latent_size,))], EncodeGraph(self)
            ),
            one_shot(
                "decode", [tensor("latent", bundle_pb2.MEANING_LATENT, (self.latent_size,))], [image], DecodeGraph(self)
            ),
            one_shot("features", [image], [features], FeaturesGraph(self)),
        ]


class EncodeGraph(RoleGraph[Autoencoder]):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model.encode(images),)


class DecodeGraph(RoleGraph[Autoencoder]):
    def forward(self, latent: Tensor) -> tuple[Tensor]:
        return (torch.round(255 * self.model.decode(latent)).to(torch.uint8),)
