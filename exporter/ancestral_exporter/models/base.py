"""What every model family offers to training and to export.

Letters: N images, H, W, C image axes, K intensity levels, Z latent dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from ancestral.v1 import bundle_pb2

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ImageShape:
    """H, W, C and K: the images that a model is about."""

    height: int
    width: int
    channels: int
    levels: int


@dataclass(frozen=True)
class OneShotGraph:
    """A graph that torch exports: arrays in, one run, arrays out.

    `module.forward` takes the union of the roles' inputs, in order of first appearance, and returns the union of their
    outputs, likewise, as a tuple. Images are uint8 NHWC on both sides; noise is an input of uniforms.
    """

    file: str
    roles: Sequence[bundle_pb2.Role]
    module: nn.Module


@dataclass(frozen=True)
class RasterGraph:
    """The row graph of an autoregressive model, built by hand, and the slow reference that it must equal.

    `reference(given, known, uniforms, temperature, label)` takes whole images ([N,H,W,C] uint8, bool, float32; [N]
    float32; [N] int64 or None), samples by full passes of the PyTorch model, without caches, and returns images
    [N,H,W,C] uint8 and the log-likelihood [N] of the free pixels, nats, under the model at temperature 1.

    `multiply_adds` are those of one sampled image, by part of the net: how often a weight is multiplied.
    """

    file: str
    role: bundle_pb2.Role
    build: Callable[[], onnx.ModelProto]
    reference: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    multiply_adds: Mapping[str, int]


class ImageModel(nn.Module, ABC):
    """A generative model of uint8 images. Adding a family means adding one subclass; nothing in the server changes."""

    family: ClassVar[str]
    # Whether `negative_log_likelihood` is exact or a bound.
    likelihood: ClassVar[bundle_pb2.Likelihood.ValueType]
    # False when it is of a density of intensities: a figure that no other model's bits/dim may be held against.
    discrete: bool = True

    image: ImageShape
    latent_size: int = 0
    label_count: int = 0

    @abstractmethod
    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Per-image terms [N] in nats of images [N,H,W,C] uint8 (values are levels' bytes, see bundle.proto).

        labels [N] int64 are the classes to condition on: needed where `label_count` > 0, ignored elsewhere.
        "loss" is the negative log-likelihood or the negative ELBO, summed over pixels; other entries are its parts
        ("reconstruction", "kl"), for the metrics file.
        """

    @abstractmethod
    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        """The graphs of a bundle, on the CPU in evaluation mode, with masks and constants baked in."""
