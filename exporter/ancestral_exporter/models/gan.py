"""A generative adversarial network of about DCGAN's size (Goodfellow et al. 2014; Radford et al. 2016).

A generator draws images from z ~ N(0, I); a discriminator tells them from real ones. The losses are the non-saturating
ones (Goodfellow et al. 2014, section 3), with the R1 penalty on the discriminator's gradient at real images, which lets
the game converge (Mescheder et al. 2018, equation 9). Both nets take their step at once: the generator's loss sees a
frozen discriminator, so that one sum of losses trains both. Normalisation is by groups, since the averaged weights know
no running statistics.

There is no likelihood. What chooses the best weights is the squared maximum mean discrepancy between samples and
validation images under the cubic kernel of the kernel inception distance (Bińkowski et al. 2018, section 4), on pixels:
its estimate by batch is unbiased.

Letters: N images, H, W, C image axes, Z latent dimensions, M channels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ancestral.v1 import bundle_pb2
from ancestral_exporter.models.base import (
    OBJECTIVE,
    Figure,
    ImageModel,
    ImageShape,
    NotNegative,
    OneShotGraph,
    Positive,
    RasterGraph,
    Terms,
)
from ancestral_exporter.models.likelihoods import normals
from ancestral_exporter.models.quantise import from_levels, to_levels
from ancestral_exporter.models.roles import RoleGraph, image_tensor, one_shot, tensor


@dataclass(frozen=True)
class GANSettings:
    """The `[model]` section of a recipe of the family "gan".

    latent_size: Z. channels: M, of the layers at half the image's size; twice as many at a quarter. features: F, the
    discriminator's last layer. gradient_penalty: γ of the R1 penalty, for intensities in [-1,1].
    """

    latent_size: Positive = 64
    channels: Positive = 64
    features: Positive = 128
    gradient_penalty: NotNegative = 1.0


class Generator(nn.Module):
    """z [N,Z] to intensities [N,C,H,W] in (-1,1)."""

    def __init__(self, image: ImageShape, latent_size: int, channels: int) -> None:
        super().__init__()
        self.size = (image.height, image.width)
        self.start = (2 * channels, -(-image.height // 4), -(-image.width // 4))
        self.dense = nn.Linear(latent_size, self.start[0] * self.start[1] * self.start[2])
        self.convolutions = nn.Sequential(
            nn.GroupNorm(1, 2 * channels),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
            nn.Conv2d(channels, image.channels, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.convolutions(self.dense(z).view(-1, *self.start))
        return torch.tanh(x[:, :, : self.size[0], : self.size[1]])


class Discriminator(nn.Module):
    """Intensities [N,C,H,W] to features [N,F], of which `judge` makes one number [N]: how real an image looks."""

    def __init__(self, image: ImageShape, channels: int, features: int) -> None:
        super().__init__()
        height, width = -(-image.height // 4), -(-image.width // 4)
        self.body = nn.Sequential(
            nn.Conv2d(image.channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * channels * height * width, features),
            nn.LeakyReLU(0.2),
        )
        self.judge = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.judge(self.body(x)).squeeze(1))


class GAN(ImageModel):
    """See the module's text."""

    family: ClassVar[str] = "gan"
    settings_type: ClassVar[type[GANSettings]] = GANSettings
    figure: ClassVar[Figure] = Figure("kernel_distance", "squared MMD, cubic kernel on pixels")

    def __init__(self, image: ImageShape, settings: GANSettings) -> None:
        super().__init__(image, settings)
        self.latent_size = settings.latent_size
        self.generator = Generator(image, settings.latent_size, settings.channels)
        self.discriminator = Discriminator(image, settings.channels, settings.features)

    def intensities(self, images: Tensor) -> Tensor:
        """[N,C,H,W] in [-1,1] of images [N,H,W,C] uint8."""
        levels = to_levels(images, self.image.levels).float()
        return (2 * levels / (self.image.levels - 1) - 1).permute(0, 3, 1, 2)

    def draw(self, z: Tensor) -> Tensor:
        """Images [N,H,W,C] uint8 of z [N,Z], each value the nearest level."""
        x = self.generator(z).permute(0, 2, 3, 1)
        return from_levels(torch.round((x + 1) / 2 * (self.image.levels - 1)), self.image.levels)

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        real = self.intensities(images).requires_grad_()
        drawn = self.generator(torch.randn(len(images), self.latent_size, device=images.device))
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        generator = functional.softplus(-functional_call(self.discriminator, frozen, (drawn,)))
        judged = self.discriminator(real)
        discriminator = functional.softplus(-judged) + functional.softplus(self.discriminator(drawn.detach()))
        (gradient,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
        penalty = 0.5 * self.settings.gradient_penalty * gradient.pow(2).flatten(1).sum(1)
        return {
            OBJECTIVE: generator + discriminator + penalty,
            "generator_loss": generator,
            "discriminator_loss": discriminator,
            "gradient_penalty": penalty,
        }

    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        drawn = self.intensities(self.draw(torch.randn(len(images), self.latent_size, device=images.device)))
        return {"kernel_distance": kernel_distance(self.intensities(images).flatten(1), drawn.flatten(1))}

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        image = image_tensor(self.image)
        noise = tensor("uniforms", bundle_pb2.MEANING_UNIFORMS, (2, self.latent_size))
        features = tensor("features", bundle_pb2.MEANING_FEATURES, (self.settings.features,))
        return [
            one_shot("sample", [noise], [image], SampleGraph(self)),
            one_shot("features", [image], [features], FeaturesGraph(self)),
        ]


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy of rows x [N,D] and y [N,D]; it may be negative.

    The kernel is (a·b / D + 1)³ (Bińkowski et al. 2018, section 4).
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    def mean_of_pairs(values: Tensor) -> Tensor:
        count = len(values)
        return (values.sum() - values.diagonal().sum()) / (count * (count - 1))

    return mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean()


class SampleGraph(RoleGraph[GAN]):
    def forward(self, uniforms: Tensor) -> tuple[Tensor]:
        return (self.model.draw(normals(uniforms)),)


class FeaturesGraph(RoleGraph[GAN]):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model.discriminator.body(self.model.intensities(images)),)
