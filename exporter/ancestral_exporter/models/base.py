"""What every model family offers to training and to export.

Letters: N images, H, W, C image axes, K intensity levels, Z latent dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from ancestral.v1 import bundle_pb2

if TYPE_CHECKING:
    import numpy as np
    import onnx


# What the values of a recipe's settings may be; pydantic checks them when a recipe is read.
# No net has sizes beyond 32 bits, and torch takes none beyond 64.
Positive = Annotated[int, Ge(1), Le(2**31 - 1)]
Count = Annotated[int, Ge(0), Le(2**31 - 1)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Angle = Annotated[float, Ge(0), Le(180)]

# Figures by name: one value per image [N], or one for the batch.
Terms = dict[str, Tensor]
# The term that a training minimises.
OBJECTIVE = "objective"


@dataclass(frozen=True)
class ImageShape:
    """H, W, C and K: the images that a model is about."""

    height: int
    width: int
    channels: int
    levels: int

    @property
    def hwc(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def values(self) -> int:
        """H·W·C, the dimensions of an image."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class OneShotGraph:
    """A graph that torch exports: arrays in, one run, arrays out.

    `module.forward` takes the union of the roles' inputs, in order of first appearance, and returns the union of their
    outputs, likewise, as a tuple. Images are uint8 NHWC on both sides; noise is an input of uniforms.

    in_order: whether every sum and mean must have a fixed order (bundle/reductions.py); a net of somebody else may have
    some that cannot, and then the last bits of an image's answer depend on its company.
    """

    file: str
    roles: Sequence[bundle_pb2.Role]
    module: nn.Module
    in_order: bool = True


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


@dataclass(frozen=True)
class ClassifyGraph:
    """Bayes' rule on top of `score`, a graph of this bundle that scores an image given its class.

    It runs it with each of `labels` classes in turn, so it costs as many runs, and the memory of one. The one output of
    `role` are the logits [N,labels], log p(image | class) + log p(class) with classes equally probable.
    """

    file: str
    role: bundle_pb2.Role
    score: OneShotGraph
    labels: int


@dataclass(frozen=True)
class ForeignGraph:
    """A graph that somebody else trained, with what makes it a role of ours around it.

    `answers(feeds)` gives the role's outputs by name, computed by the original, without what was put around.
    """

    file: str
    role: bundle_pb2.Role
    model: onnx.ModelProto
    answers: Callable[[Mapping[str, np.ndarray[Any, Any]]], dict[str, np.ndarray[Any, Any]]]


Graph = OneShotGraph | RasterGraph | ClassifyGraph | ForeignGraph


class Bundled(Protocol):
    """What a bundle is written of: images, sizes, and graphs that know the answers that they must give."""

    @property
    def family(self) -> str: ...

    @property
    def image(self) -> ImageShape: ...

    @property
    def latent_size(self) -> int:
        """Z, or 0."""

    @property
    def label_count(self) -> int:
        """Of the classes that a role is conditioned on, or 0."""

    def graphs(self) -> Sequence[Graph]: ...


@dataclass(frozen=True)
class Figure:
    """The validation figure that chooses a family's best weights: the smaller, the better.

    name: a term of `ImageModel.validation_terms`, or "bits_per_dim". unit: as on an axis.
    """

    name: str
    unit: str


class ImageModel(nn.Module, ABC):
    """A model of uint8 images. A family is one file with one subclass and its settings; nothing else knows it.

    The constructor takes `(image, settings)`, the settings being of `settings_type`, a frozen dataclass whose fields
    are the keys of a recipe's `[model]` section.
    """

    family: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    figure: ClassVar[Figure]
    # Whether `negative_log_likelihood` is exact or a bound; unspecified where the family has no likelihood.
    likelihood: ClassVar[bundle_pb2.Likelihood.ValueType] = bundle_pb2.LIKELIHOOD_UNSPECIFIED
    # Of the validation terms that are not nats/image, in words for the manifest.
    units: ClassVar[Mapping[str, str]] = {}
    # Whether training images may lack a label, which is -1 then.
    takes_unlabelled: ClassVar[bool] = False
    # Whether it learns from nothing but images with a label: the others are left out of its training.
    needs_labels: ClassVar[bool] = False

    image: ImageShape
    latent_size: int = 0
    label_count: int = 0

    def __init__(self, image: ImageShape, settings: Any) -> None:
        super().__init__()
        self.image, self.settings = image, settings

    @abstractmethod
    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        """Terms of images [N,H,W,C] uint8 (values are levels' bytes, see bundle.proto) and their classes [N] int64.

        The mean of OBJECTIVE is minimised; where several nets have losses of their own (a GAN), it is their sum, and
        each loss reaches only its own net's parameters. Other terms are for the metrics file and the progress bar,
        "loss" first. progress: the share of all steps that this one completes, in (0,1].
        """

    @abstractmethod
    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        """Terms of validation images, `figure.name` among them; called with the averaged weights, without gradients.

        The average over batches is what is compared, so a term is a mean over images or an unbiased estimate by batch.
        """

    def regions(self) -> Sequence[nn.Module]:
        """The modules of a training that are worth compiling, each by itself; of repeated ones all.

        A region's inputs have the same shapes at every step, and it asks for no value of a tensor.
        """
        return ()

    @abstractmethod
    def graphs(self) -> Sequence[Graph]:
        """The graphs of a bundle, on the CPU in evaluation mode, with masks and constants baked in."""


class LikelihoodModel(ImageModel):
    """A model that is trained and judged by the likelihood it gives to images, or by a bound of it."""

    figure: ClassVar[Figure] = Figure("bits_per_dim", "bits/dim")
    # False when it is of a density of intensities: a figure that no other model's bits/dim may be held against.
    discrete: bool = True

    @abstractmethod
    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Terms:
        """Per-image terms [N] in nats of images [N,H,W,C] uint8.

        labels [N] int64 are the classes to condition on: needed where `label_count` > 0, ignored elsewhere.
        "loss" is the negative log-likelihood or the negative ELBO, summed over pixels; other entries are its parts
        ("reconstruction", "kl"), for the metrics file.
        """

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        terms = self.negative_log_likelihood(images, labels)
        return {OBJECTIVE: terms["loss"], **self.in_bits(terms)}

    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        return self.in_bits(self.negative_log_likelihood(images, labels))

    def in_bits(self, terms: Terms) -> Terms:
        """The terms, with the loss in bits/dim beside them."""
        return {**terms, "bits_per_dim": terms["loss"] / (self.image.values * math.log(2))}
