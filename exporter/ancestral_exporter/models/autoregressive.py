"""Models that draw an image value by value, each given those before it: their likelihood, and how they plainly sample.

Letters: N images, H, W, C image axes, K levels, P parameters and D' features of a value.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models.base import (
    ClassifyGraph,
    Graph,
    ImageShape,
    LikelihoodModel,
    OneShotGraph,
    RasterGraph,
    Terms,
)
from ancestral_exporter.models.quantise import from_levels, to_levels
from ancestral_exporter.models.roles import image_tensor, tensor
from ancestral_exporter.models.values import Softmax, ValueDistribution

# Classes of a model that has a "classify" role. One answer costs so many scores, and an export verifies the role at
# batches of up to 64. Not measured: a round number above the data sets of the recipes.
MOST_CLASSIFIED = 100


class Autoregressive(LikelihoodModel):
    """p(image) is the product of p(value | values before it), in raster order: rows, columns, channels. Exact, in nats.

    A family says what it makes of the values before (`hidden_activations`, whose last axis has `head_channels`
    entries), how that becomes the parameters of each value's distribution (`logits_of`), and how rows are painted at
    less than a pass per value (`row_graph`). That distribution, `values`, is a softmax unless the family has another.
    A model that is conditioned on classes tells them apart too, by Bayes' rule.
    """

    likelihood: ClassVar[bundle_pb2.Likelihood.ValueType] = bundle_pb2.LIKELIHOOD_EXACT
    head_channels: int

    def __init__(self, image: ImageShape, settings: Any) -> None:
        super().__init__(image, settings)
        self.values: ValueDistribution = Softmax(image.levels)

    @abstractmethod
    def hidden_activations(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """The last hidden activations [N,H,W,C,D'] of levels [N,H,W,C] int64: all that the logits depend on.

        Those of a value depend on the values before it alone, and on the labels [N] int64 where `label_count` > 0.
        """

    @abstractmethod
    def logits_of(self, hidden: Tensor) -> Tensor:
        """Parameters [N,H,W,C,P] for `values` of hidden activations [N,H,W,C,D']: K logits where it is a softmax."""

    @abstractmethod
    def row_graph(self) -> RasterGraph:
        """The graph that samples, `sample.onnx`; called on the CPU in evaluation mode."""

    def level_logits(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """`logits_of` every value of levels [N,H,W,C] int64, given what is before it: [N,H,W,C,P]."""
        return self.logits_of(self.hidden_activations(levels, labels))

    def log_probabilities(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Natural log of the probability [N,H,W,C] of every pixel's own level."""
        return self.values.log_prob(self.level_logits(levels, labels), levels)

    def negative_log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Terms:
        levels = to_levels(images, self.image.levels)
        return {"loss": -self.log_probabilities(levels, labels).flatten(1).sum(1)}

    @torch.no_grad()
    def sample_naive(
        self, given: Tensor, known: Tensor, uniforms: Tensor, temperature: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One full pass per pixel and channel: slow, and plainly right. See `RasterGraph.reference` for the shapes.

        Known pixels come back as the bytes that were given; free ones are conditioned on their nearest levels.
        """
        levels = torch.where(known, to_levels(given, self.image.levels), 0)
        _, height, width, channels = given.shape
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    at = (slice(None), row, column, channel)
                    logits = self.level_logits(levels, labels)[at]  # [N,P]
                    drawn = self.values.draw(logits, uniforms[at], temperature)
                    levels[at] = torch.where(known[at], levels[at], drawn)
        return self._painted(levels, given, known, labels)

    @torch.no_grad()
    def sample_by_passes(
        self, given: Tensor, known: Tensor, uniforms: Tensor, temperature: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same images as `sample_naive` in tens of passes, not hundreds: redraw all pixels until none changes.

        With the noise fixed, pixel i is right one pass after the pixels before it are, so an image that its own pass
        reproduces is the sequential one (Song et al. 2020, "Accelerating Feedforward Computation via Parallel Nonlinear
        Equation Solving", Jacobi iteration). Each round is one full parallel pass.
        """
        levels = torch.where(known, to_levels(given, self.image.levels), 0)
        for _ in range(levels[0].numel() + 1):
            drawn = self.values.draw(self.level_logits(levels, labels), uniforms, temperature[:, None, None, None])
            drawn = torch.where(known, levels, drawn)
            if torch.equal(drawn, levels):
                break
            levels = drawn
        return self._painted(levels, given, known, labels)

    def _painted(self, levels: Tensor, given: Tensor, known: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bytes [N,H,W,C] with known pixels as given, and the log-likelihood [N] of the free ones."""
        scores = torch.where(known, 0.0, self.log_probabilities(levels, labels))
        return torch.where(known, given, from_levels(levels, self.image.levels)), scores.flatten(1).sum(1)

    def graphs(self) -> list[Graph]:
        self.cpu().eval()
        score = self._score_graph()
        graphs: list[Graph] = [score, self.row_graph()]
        return [*graphs, self._classify_graph(score)] if 0 < self.label_count <= MOST_CLASSIFIED else graphs

    def _score_graph(self) -> OneShotGraph:
        shape = self.image
        features = shape.channels * self.head_channels
        spec = bundle_pb2.TensorSpec
        byte, integer, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_INT64, tensor_pb2.DATA_TYPE_FLOAT32
        pixels = [shape.height, shape.width]
        inputs = [spec(name="image", meaning=bundle_pb2.MEANING_IMAGE, dtype=byte, shape=[*pixels, shape.channels])]
        if self.label_count:
            inputs.append(spec(name="label", meaning=bundle_pb2.MEANING_LABEL, dtype=integer))
        score = bundle_pb2.Role(
            name="score",
            program=bundle_pb2.PROGRAM_ONE_SHOT,
            graph="score.onnx",
            inputs=inputs,
            outputs=[spec(name="log_likelihood", meaning=bundle_pb2.MEANING_LOG_LIKELIHOOD, dtype=real)],
            likelihood=bundle_pb2.LIKELIHOOD_EXACT,
        )
        pooled = bundle_pb2.Role(
            name="features",
            program=bundle_pb2.PROGRAM_ONE_SHOT,
            graph="score.onnx",
            inputs=inputs,
            outputs=[
                spec(name="features", meaning=bundle_pb2.MEANING_FEATURES, dtype=real, shape=[features]),
                spec(name="feature_map", meaning=bundle_pb2.MEANING_FEATURE_MAP, dtype=real, shape=[*pixels, features]),
            ],
        )
        return OneShotGraph("score.onnx", [score, pooled], _Score(self))

    def _classify_graph(self, score: OneShotGraph) -> ClassifyGraph:
        role = bundle_pb2.Role(
            name="classify",
            program=bundle_pb2.PROGRAM_ONE_SHOT,
            graph="classify.onnx",
            inputs=[image_tensor(self.image)],
            outputs=[tensor("logits", bundle_pb2.MEANING_LOGITS, (self.label_count,))],
        )
        return ClassifyGraph("classify.onnx", role, score, self.label_count)


def initialise(module: nn.Module) -> None:
    """Draw the weights of one layer such that inputs of unit variance give outputs of unit variance; biases are 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.1)


class _Score(nn.Module):
    """What `score.onnx` computes: log-likelihood [N], mean features [N,C·D'], feature map [N,H,W,C·D']."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        levels = to_levels(image, self.model.image.levels)
        hidden = self.model.hidden_activations(levels, label)
        scores = self.model.values.log_prob(self.model.logits_of(hidden), levels)
        feature_map = hidden.flatten(3)
        return scores.flatten(1).sum(1), feature_map.mean(dim=(1, 2)), feature_map
