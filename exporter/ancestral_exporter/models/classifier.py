"""A classifier that may begin from the encoder of an autoencoder or a VAE, fine-tuned on few labels.

An encoder that has learnt to describe images from images alone knows most of what a classifier needs (Hinton &
Salakhutdinov 2006); what is left to learn from labels is one layer on top, and a little of the rest. Without
`pretrained` the same net is trained from scratch, which is what it must be held against.

Letters: N images, H, W, C image axes, K classes, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral.text import one_line
from ancestral.v1 import bundle_pb2
from ancestral_exporter.errors import UsageError
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
from ancestral_exporter.models.vae import Encoder, FeaturesGraph

# The graph of a bundle that holds its encoder and nothing else, and the weights' names in it: `….encoder.<name>`.
_GRAPH, _PREFIX = "features.onnx", ".encoder."


@dataclass(frozen=True)
class ClassifierSettings:
    """The `[model]` section of a recipe of the family "classifier".

    label_count: K. pretrained: the folder of a bundle, MODELS/NAME/VERSION, of an autoencoder or a VAE whose encoder
    this one begins from; empty to begin from scratch. encoder_widths, blocks, features: of the encoder, which must be
    those of the bundle's: the channels after each halving of the image, the residual blocks there, and F. dropout: in
    the encoder and before the last layer.
    """

    label_count: Positive
    pretrained: str = ""
    encoder_widths: tuple[Positive, ...] = (32, 64)
    blocks: Count = 0
    features: Positive = 256
    dropout: Share = 0.0


class Classifier(ImageModel):
    """See the module's text."""

    family: ClassVar[str] = "classifier"
    settings_type: ClassVar[type[ClassifierSettings]] = ClassifierSettings
    figure: ClassVar[Figure] = Figure("label_nats", "nats/label")
    units: ClassVar[Mapping[str, str]] = {"error": "share of images"}
    needs_labels: ClassVar[bool] = True

    def __init__(self, image: ImageShape, settings: ClassifierSettings) -> None:
        super().__init__(image, settings)
        self.encoder = Encoder(image, settings.encoder_widths, settings.blocks, settings.features, settings.dropout)
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.features, settings.label_count))
        if settings.pretrained:
            self.encoder.load_state_dict(encoder_weights(Path(settings.pretrained), self.encoder))

    def logits(self, images: Tensor) -> Tensor:
        """[N,K] of images [N,H,W,C] uint8."""
        return cast(Tensor, self.head(self.encoder(images)))

    def training_terms(self, images: Tensor, labels: Tensor, progress: float) -> Terms:
        nats = functional.cross_entropy(self.logits(images), labels, reduction="none")
        return {OBJECTIVE: nats, "loss": nats, "label_nats": nats}

    def validation_terms(self, images: Tensor, labels: Tensor) -> Terms:
        logits = self.logits(images)
        return {
            "label_nats": functional.cross_entropy(logits, labels, reduction="none"),
            "error": (logits.argmax(1) != labels).float(),
        }

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        image = image_tensor(self.image)
        logits = tensor("logits", bundle_pb2.MEANING_LOGITS, (self.settings.label_count,))
        features = tensor("features", bundle_pb2.MEANING_FEATURES, (self.settings.features,))
        return [
            one_shot("classify", [image], [logits], ClassifyGraph(self)),
            one_shot("features", [image], [features], FeaturesGraph(self)),
        ]


@dataclass(frozen=True)
class EncoderSizes:
    """Of a bundle's encoder, as `ClassifierSettings` has them."""

    encoder_widths: tuple[int, ...]
    blocks: int
    features: int


def encoder_sizes(bundle: Path) -> EncoderSizes:
    """What a classifier must be like to begin from a bundle's encoder. Raises UsageError as `encoder_weights` does."""
    weights = _weights(bundle)
    convolutions = [name for name in weights if re.fullmatch(r"convolutions\.\d+\.weight", name)]
    in_blocks = [name for name in weights if re.fullmatch(r"convolutions\.\d+\.body\.\d+\.weight", name)]
    if not convolutions or "dense.weight" not in weights:
        raise UsageError(
            f"model.pretrained = {str(bundle)!r}: has no encoder of an autoencoder or a VAE of this exporter"
        )
    convolutions.sort(key=lambda name: int(name.split(".")[1]))
    widths = tuple(weights[name].shape[0] for name in convolutions)
    # A block is two convolutions, and there are as many after each halving.
    return EncoderSizes(widths, len(in_blocks) // (2 * len(widths)), weights["dense.weight"].shape[0])


def encoder_weights(bundle: Path, encoder: Encoder) -> dict[str, Tensor]:
    """The weights of a bundle's encoder, by their names in `encoder`, whose shapes they must have.

    Raises UsageError where the folder is no bundle, has no encoder of this kind, or one of other sizes.
    """
    what = f"model.pretrained = {str(bundle)!r}"
    found = _weights(bundle)
    wanted = encoder.state_dict()
    if found.keys() != wanted.keys():
        have = ", ".join(sorted(found)) or "none"
        raise UsageError(
            f"{what}: its encoder is another: it has the weights {have}; this one {', '.join(sorted(wanted))}"
        )
    for name, weight in wanted.items():
        if found[name].shape != weight.shape:
            raise UsageError(
                f"{what}: its encoder's {name} is {list(found[name].shape)}, this one's {list(weight.shape)}; set "
                "model.encoder_widths, model.blocks and model.features as they were there, for images of the same size"
            )
    return found


def _weights(bundle: Path) -> dict[str, Tensor]:
    """What a bundle's graph of features has of an encoder, by the names in `Encoder`."""
    path = bundle / _GRAPH
    what = f"model.pretrained = {str(bundle)!r}"
    if not path.is_file():
        raise UsageError(
            f"{what}: no {_GRAPH} there; give the folder of an autoencoder's or a VAE's bundle, NAME/VERSION"
        )
    try:
        weights = {
            w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in onnx.load(path).graph.initializer
        }
    except Exception as error:  # a file of any content
        raise UsageError(f"{what}: {_GRAPH} cannot be read: {one_line(error)}") from error
    found = {name.partition(_PREFIX)[2]: weight for name, weight in weights.items() if _PREFIX in name}
    found.pop("table", None)  # of the bytes, not of the training
    return found


class ClassifyGraph(RoleGraph[Classifier]):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model.logits(images),)
