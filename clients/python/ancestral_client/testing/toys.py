"""Models of made-up numbers: they answer every role, at once and the same each time, and know nothing of any data.

Shapes: N images, H rows, W columns, C channels, D = H·W·C, K levels, Z latent dimensions, F features.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle.noise import normals, uniforms

ROLES = ("sample", "encode", "decode", "features", "score", "classify")
# Matrices of a model, by the index of their noise; its seed is the name.
_PIXELS, _ENCODER, _FEATURES, _CLASSIFIER = range(4)
_LOG_VARIANCE = -2.0
_DECODER_DEVIATION = 16.0  # bytes

Array = NDArray[Any]


@dataclass(frozen=True)
class ToyModel:
    """A model for `FakeServer`, of any size. Equal arguments make equal models.

    Pixels are independent, each with chances of its own for K levels: so samples, their likelihoods and completions
    belong together, and `score` of a sample is the likelihood that it was drawn with. `encode` and `decode` are linear,
    and the inverse of each other as far as Z dimensions go. `exact` False makes of `score` a bound that needs draws.
    With a `label_count` the model is class-conditional.
    """

    name: str = "toy"
    version: int = 1
    image_shape: tuple[int, int, int] = (8, 8, 1)
    """(H, W, C)."""
    levels: int = 17
    """K, 2 to 256."""
    latent_size: int = 4
    """Z."""
    feature_size: int = 16
    """F."""
    roles: tuple[str, ...] = ROLES
    exact: bool = True
    label_count: int = 0
    class_names: tuple[str, ...] = tuple("0123456789")

    def __post_init__(self) -> None:
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown or not self.roles:
            raise ValueError(f"roles: is {self.roles!r}; must be some of {', '.join(ROLES)}")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape: is {self.image_shape!r}; must be (H, W, C), each at least 1")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels: is {self.levels}; must be 2 to 256")
        if self.has_latents and not 1 <= self.latent_size <= self.pixels:
            raise ValueError(f"latent_size: is {self.latent_size}; must be 1 to {self.pixels}, the pixels of an image")

    @property
    def pixels(self) -> int:
        """D."""
        return math.prod(self.image_shape)

    @property
    def has_latents(self) -> bool:
        return bool({"encode", "decode"} & set(self.roles))

    def sample(
        self,
        seed: int,
        index: int,
        temperature: float = 1.0,
        label: int = 0,
        given: Array | None = None,
        known: Array | None = None,
    ) -> tuple[Array, float]:
        """Image `index` of a seed [H,W,C] uint8, and nats of its pixels that are drawn at temperature 1."""
        chances = self._log_chances(label)
        if temperature > 0:
            scaled = _softmax(chances / temperature).cumsum(axis=1)
            drawn = (uniforms(seed, index, (self.pixels, 1)) >= scaled[:, :-1]).sum(axis=1)
        else:
            drawn = chances.argmax(axis=1)
        free = np.ones(self.pixels, bool) if known is None else ~known.reshape(-1)
        nats = float(chances[np.arange(self.pixels), drawn][free].sum())
        image = self._bytes(drawn).reshape(self.image_shape)
        return (image, nats) if known is None or given is None else (np.where(known, given, image), nats)

    def score(self, images: Array, labels: Array, seed: int = 0, first_index: int = 0, draws: int = 1) -> Array:
        """[N] nats of images [N,H,W,C] in classes [N]; of a model that is not exact, bounds of so many draws."""
        levels = np.rint(images.reshape(len(images), -1) * ((self.levels - 1) / 255)).astype(int)
        nats = [self._log_chances(y)[np.arange(self.pixels), x].sum() for x, y in zip(levels, labels, strict=True)]
        exact = np.array(nats, np.float64)
        if not self.exact:
            # Log-normal weights whose mean is 1: the more draws, the nearer to the likelihood.
            noise = [normals(uniforms(seed, first_index + i, (draws, 2))) for i in range(len(images))]
            exact += np.log(np.exp(np.stack(noise) - 0.5).mean(axis=1))
        return exact.astype(np.float32)

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Mean and log-variance, [N,Z] float32, of images [N,H,W,C]."""
        mean = (_centred(images) @ self._encoder).astype(np.float32)
        return mean, np.full_like(mean, _LOG_VARIANCE)

    def latents(self, images: Array, seed: int, first_index: int) -> Array:
        """[N,Z] float32: a draw from the posterior of each image."""
        mean, log_variance = self.encode(images)
        noise = np.stack([uniforms(seed, first_index + i, (2, self.latent_size)) for i in range(len(images))])
        return (mean + np.exp(log_variance / 2) * normals(noise)).astype(np.float32)

    def decode(self, latents: Array) -> tuple[Array, Array]:
        """Mean and variance, [N,H,W,C] float32 in units of bytes, of latents [N,Z]."""
        pixels = 255 * (0.5 + latents.astype(np.float64) @ self._decoder)
        mean = np.clip(pixels, 0, 255).astype(np.float32).reshape(-1, *self.image_shape)
        return mean, np.full_like(mean, _DECODER_DEVIATION**2)

    def features(self, images: Array, labels: Array) -> tuple[Array, Array]:
        """Features [N,F] and their map [N,H,W,C], float32, of images [N,H,W,C] in classes [N]."""
        hidden = np.tanh(_centred(images) @ self._matrix(_FEATURES, self.feature_size) + labels[:, np.newaxis])
        return hidden.astype(np.float32), (images / np.float32(255)).astype(np.float32)

    def classify(self, images: Array) -> Array:
        """Logits [N, number of classes] float32 of images [N,H,W,C]."""
        return (4 * _centred(images) @ self._matrix(_CLASSIFIER, len(self.class_names))).astype(np.float32)

    def _log_chances(self, label: int) -> Array:
        """[D,K], natural logarithms."""
        return np.roll(self._unconditional, int(label), axis=1)

    @cached_property
    def _unconditional(self) -> Array:
        logits = 2 * self._noise(_PIXELS, self.pixels, self.levels)
        return np.log(_softmax(logits))

    @cached_property
    def _encoder(self) -> Array:
        return self._matrix(_ENCODER, self.latent_size)

    @cached_property
    def _decoder(self) -> Array:
        return np.linalg.pinv(self._encoder)

    def _matrix(self, index: int, columns: int) -> Array:
        """[D, columns]."""
        matrix: Array = self._noise(index, self.pixels, columns) / math.sqrt(self.pixels)
        return matrix

    def _noise(self, index: int, rows: int, columns: int) -> Array:
        """[rows, columns] normals, of the model's name and nothing else."""
        matrix: Array = normals(uniforms(zlib.crc32(self.name.encode()), index, (1, 2, rows, columns)))[0]
        return matrix

    def _bytes(self, levels: Array) -> Array:
        found: Array = np.rint(255 * levels / (self.levels - 1)).astype(np.uint8)
        return found


def _centred(images: Array) -> Array:
    """[N,D], -0.5 to 0.5."""
    centred: Array = images.reshape(len(images), -1) / 255 - 0.5
    return centred


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return shares
