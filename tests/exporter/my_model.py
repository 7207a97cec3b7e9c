"""A family of somebody's own: each pixel is Bernoulli with one probability, learnt; a file outside of the exporter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape, LikelihoodModel, OneShotGraph, Positive, RasterGraph, Terms


@dataclass(frozen=True)
class CoinSettings:
    """scale: what the learnt logit is multiplied by."""

    scale: Positive = 1


class Coin(LikelihoodModel):
    family: ClassVar[str] = "coin"
    settings_type: ClassVar[type[CoinSettings]] = CoinSettings
    likelihood = bundle_pb2.LIKELIHOOD_EXACT

    def __init__(self, image: ImageShape, settings: CoinSettings) -> None:
        super().__init__(image, settings)
        self.logit = nn.Parameter(torch.zeros(()))

    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Terms:
        pixels = (images >= 128).float().flatten(1)
        logits = (self.settings.scale * self.logit).expand_as(pixels)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(1)}

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        spec = bundle_pb2.TensorSpec
        image = spec(
            name="image",
            meaning=bundle_pb2.MEANING_IMAGE,
            dtype=tensor_pb2.DATA_TYPE_UINT8,
            shape=self.image.hwc,
        )
        value = spec(
            name="log_likelihood", meaning=bundle_pb2.MEANING_LOG_LIKELIHOOD, dtype=tensor_pb2.DATA_TYPE_FLOAT32
        )
        role = bundle_pb2.Role(
            name="score",
            program=bundle_pb2.PROGRAM_ONE_SHOT,
            graph="score.onnx",
            inputs=[image],
            outputs=[value],
            likelihood=self.likelihood,
        )
        return [OneShotGraph("score.onnx", [role], CoinScore(self))]


class CoinScore(nn.Module):
    def __init__(self, coin: Coin) -> None:
        super().__init__()
        self.coin = coin

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (-self.coin.negative_log_likelihood(images)["loss"],)


NOT_A_FAMILY = 7
