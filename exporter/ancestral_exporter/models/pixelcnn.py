"""A gated PixelCNN built for exact sampling at the cost of little more than one parallel pass.

Two stacks, no blind spot (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", section 2.2;
gates section 2.1). `x` is the predicted pixel, `v` what the vertical stack sees, `h` what the horizontal one does:

    v v v v v     vertical: each layer looks at the row above and at its own row of the layer below (a 2×3 window);
    v v v v v     its first layer is fed the image moved down one row, so it knows only rows above x. A dilated layer
                  looks d rows up instead of one, at three columns that lie c apart (Yu & Koltun 2016, "Multi-Scale
                  Context Aggregation by Dilated Convolutions"), and sees farther for as many weights.
    h h x . .     horizontal: each layer looks at the pixel before and at its own of the layer below (a 1×2 window);
    . . . . .     its first layer is fed the image moved right one pixel. Each gets a 1×1 link from a vertical layer.

Windows that look at one row above and one pixel before make caching cheap (Ramachandran et al. 2017, "Fast Generation
for Convolutional Autoregressive Models", section 2): d rows and one pixel of each layer are the whole state, and zeros
are exactly the padding. The vertical stack runs once per row, over its whole width; only the horizontal stack runs
pixel by pixel, so depth is better spent on the former. The head reads the last horizontal layer: with a 1×1 projection
after every gate, the residual stream already is the sum of skip connections.

Letters: N images, H, W, C image axes, K levels, D channels, F input features per pixel, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_exporter.models import pixelcnn_rows
from ancestral_exporter.models.base import (
    Count,
    ImageShape,
    LikelihoodModel,
    OneShotGraph,
    Positive,
    RasterGraph,
    Share,
    Terms,
)
from ancestral_exporter.models.pixelcnn_weights import multiply_adds
from ancestral_exporter.models.quantise import from_levels, inverse_cdf, to_levels


def gate(activations: Tensor) -> Tensor:
    """tanh of the first half of the channels times the sigmoid of the second: [N,2D,...] -> [N,D,...]."""
    signal, switch = activations.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(switch)


class GatedLayer(nn.Module):
    """A window over what came before, a gate, a 1×1 projection; residual where the widths allow.

    The window of (rows, columns) ends at the own row; it is centred for the vertical stack (`centred`) and ends at the
    own pixel for the horizontal one. `dilation` is how many rows and columns lie from one of its taps to the next.
    `link` (horizontal only) adds a 1×1 view of a vertical layer to the gate, and a class adds a learned vector.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        window: tuple[int, int],
        *,
        dilation: tuple[int, int] = (1, 1),
        centred: bool,
        label_count: int,
        dropout: float,
    ) -> None:
        super().__init__()
        top, across = ((taps - 1) * step for taps, step in zip(window, dilation, strict=True))
        # Left, right, top, bottom, as torch pads.
        self.padding = (across // 2, across // 2, top, 0) if centred else (across, 0, top, 0)
        self.residual = inputs == channels
        self.window = nn.Conv2d(inputs, 2 * channels, window, dilation=dilation)
        self.link = None if centred else nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.label = nn.Embedding(label_count, 2 * channels) if label_count else None
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)  # the next gate has a bias

    def forward(self, inputs: Tensor, linked: Tensor | None, labels: Tensor | None) -> Tensor:
        """Inputs [N,D',H,W], linked vertical layer [N,D,H,W], labels [N] -> [N,D,H,W]."""
        activations = self.window(functional.pad(inputs, self.padding))
        if self.link is not None:
            activations = activations + self.link(linked)
        if self.label is not None:
            activations = activations + self.label(labels)[:, :, None, None]
        outputs = self.project(self.dropout(gate(activations)))
        return cast(Tensor, inputs + outputs if self.residual else outputs)


@dataclass(frozen=True)
class PixelCNNSettings:
    """The `[model]` section of a recipe of the family "pixelcnn".

    channels: D of both stacks. head_channels: width of the hidden layer of the head, per image channel; D when unset.
    first_window: rows and (odd) columns that the first vertical layer sees of the rows above; first_pixels: pixels to
    the left that the first horizontal layer sees. They are cheap, having few input channels, and let a shallow net see
    farther. one_hot: feed the one-hot level beside its value, for levels that are more than points on a scale.
    label_count: classes to condition on; 0 for none.

    row_dilations: how many rows up each vertical layer after the first looks; column_dilations: how many columns its
    taps lie apart. The second layer has the first entry, the third the second, and so on, from the first again when
    they are used up; entries that no layer is left for mean nothing. The last vertical layer sees as many rows above
    as the sum of `first_window[0]` and all its row dilations, at the cost of an undilated one; a layer that looks d
    rows up has d rows of state.
    """

    channels: Positive = 64
    vertical_layers: Positive = 8
    horizontal_layers: Positive = 8
    head_channels: Positive | None = None
    first_window: tuple[Positive, Positive] = (2, 3)
    first_pixels: Positive = 2
    row_dilations: tuple[Positive, ...] = (1,)
    column_dilations: tuple[Positive, ...] = (1,)
    one_hot: bool = False
    dropout: Share = 0.0
    label_count: Count = 0

    def __post_init__(self) -> None:
        if self.horizontal_layers > self.vertical_layers:
            raise ValueError(
                f"horizontal_layers ({self.horizontal_layers}) must be no more than vertical_layers "
                f"({self.vertical_layers})"
            )
        if self.first_window[1] % 2 == 0:
            raise ValueError(f"first_window must have an odd number of columns, not {self.first_window[1]}")
        for name in ("row_dilations", "column_dilations"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one entry, [1] for no dilation")

    @property
    def dilations(self) -> list[tuple[int, int]]:
        """Of each vertical layer after the first: rows and columns."""
        pairs = zip(cycle(self.row_dilations), cycle(self.column_dilations), strict=True)
        return list(islice(pairs, self.vertical_layers - 1))


class GatedPixelCNN(LikelihoodModel):
    """See the module's text. Likelihoods are exact, in nats."""

    family: ClassVar[str] = "pixelcnn"
    settings_type: ClassVar[type[PixelCNNSettings]] = PixelCNNSettings
    likelihood = bundle_pb2.LIKELIHOOD_EXACT

    def __init__(self, image: ImageShape, settings: PixelCNNSettings) -> None:
        super().__init__(image, settings)
        channels = settings.channels
        for name, side, size in (("row", "high", image.height), ("column", "wide", image.width)):
            largest = max(getattr(settings, f"{name}_dilations"))
            if largest > max(1, size - 1):
                raise ValueError(
                    f"{name}_dilations has {largest}, and images are {size} {side}: no layer can look farther than "
                    f"{max(1, size - 1)}"
                )
        vertical_layers, horizontal_layers = settings.vertical_layers, settings.horizontal_layers
        first_window, first_pixels = settings.first_window, settings.first_pixels
        self.label_count = settings.label_count
        self.channels = channels
        self.first_window = first_window
        self.first_pixels = first_pixels
        self.head_channels = settings.head_channels or channels
        layer = partial(GatedLayer, channels=channels, label_count=settings.label_count, dropout=settings.dropout)

        # A level's features: its value in [-1,1], then its one-hot code. Zeros stand for what lies outside the image.
        values = torch.linspace(-1, 1, image.levels)[:, None]  # [K,1]
        table = torch.cat([values, torch.eye(image.levels)], dim=1) if settings.one_hot else values
        self.feature_table: Tensor
        self.register_buffer("feature_table", table, persistent=False)  # [K,F/C]
        self.pixel_features = image.channels * table.shape[1]  # F

        self.vertical = nn.ModuleList([layer(self.pixel_features, window=first_window, centred=True)])
        self.vertical.extend(
            layer(channels, window=(2, 3), dilation=dilation, centred=True) for dilation in settings.dilations
        )
        self.horizontal = nn.ModuleList(
            layer(channels if i else self.pixel_features, window=(1, 2 if i else first_pixels), centred=False)
            for i in range(horizontal_layers)
        )
        # Horizontal layer i reads vertical layer links[i]; the last reads the last, which sees farthest.
        self.links = [(i + 1) * vertical_layers // horizontal_layers - 1 for i in range(horizontal_layers)]
        # One hidden layer per channel of the pixel; channel c also sees the channels before it in the same pixel.
        self.hidden = nn.Conv2d(channels, image.channels * self.head_channels, 1)
        self.earlier = nn.ModuleList(
            nn.Linear(c * table.shape[1], self.head_channels, bias=False) for c in range(1, image.channels)
        )
        self.logits = nn.ModuleList(nn.Linear(self.head_channels, image.levels) for _ in range(image.channels))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
        # Residual streams add up L projections; keep their sum near unit variance.
        for stack in (self.vertical, self.horizontal):
            for layer in stack:
                cast(GatedLayer, layer).project.weight.data.div_(math.sqrt(len(stack)))
        for linear in self.logits:
            cast(nn.Linear, linear).weight.data.mul_(0.5)

    def pixel_inputs(self, levels: Tensor) -> Tensor:
        """Features [N,F,H,W] float32 of levels [N,H,W,C] int64."""
        return self.feature_table[levels].flatten(3).permute(0, 3, 1, 2)

    def hidden_activations(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """The last hidden activations [N,H,W,C,D'] of levels [N,H,W,C]: all that the logits are linear in."""
        features = self.pixel_inputs(levels)
        height, width = features.shape[2:]
        row_above = functional.pad(features, (0, 0, 1, 0))[:, :, :height]
        pixel_before = functional.pad(features, (1, 0))[:, :, :, :width]

        seen = []  # per vertical layer [N,D,H,W]
        stream = row_above
        for layer in self.vertical:
            stream = layer(stream, None, labels)
            seen.append(stream)
        stream = pixel_before
        for layer, link in zip(self.horizontal, self.links, strict=True):
            stream = layer(stream, seen[link], labels)

        hidden = self.hidden(functional.relu(stream)).permute(0, 2, 3, 1)  # [N,H,W,C·D']
        pixel = features.permute(0, 2, 3, 1)  # [N,H,W,F]
        channels = list(hidden.split(self.head_channels, dim=3))
        for i, earlier in enumerate(self.earlier):
            channels[i + 1] = channels[i + 1] + earlier(pixel[..., : earlier.in_features])
        return functional.relu(torch.stack(channels, dim=3))

    def level_logits(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N,H,W,C,K] of every pixel of levels [N,H,W,C] int64, given what is before it."""
        return self._logits_of(self.hidden_activations(levels, labels))

    def _logits_of(self, hidden: Tensor) -> Tensor:
        return torch.stack([linear(hidden[:, :, :, c]) for c, linear in enumerate(self.logits)], dim=3)

    def log_probabilities(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Natural log of the probability [N,H,W,C] of every pixel's own level."""
        return _pick(self.level_logits(levels, labels), levels)

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
                    logits = self.level_logits(levels, labels)[at]  # [N,K]
                    levels[at] = torch.where(known[at], levels[at], inverse_cdf(logits, uniforms[at], temperature))
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
            drawn = inverse_cdf(self.level_logits(levels, labels), uniforms, temperature[:, None, None, None])
            drawn = torch.where(known, levels, drawn)
            if torch.equal(drawn, levels):
                break
            levels = drawn
        return self._painted(levels, given, known, labels)

    def _painted(self, levels: Tensor, given: Tensor, known: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bytes [N,H,W,C] with known pixels as given, and the log-likelihood [N] of the free ones."""
        scores = torch.where(known, 0.0, self.log_probabilities(levels, labels))
        return torch.where(known, given, from_levels(levels, self.image.levels)), scores.flatten(1).sum(1)

    def graphs(self) -> list[OneShotGraph | RasterGraph]:
        self.cpu().eval()
        return [self._score_graph(), self._sample_graph()]

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

    def _sample_graph(self) -> RasterGraph:
        return RasterGraph(
            "sample.onnx",
            pixelcnn_rows.role(self, "sample.onnx"),
            partial(pixelcnn_rows.build, self),
            self.sample_by_passes,
            multiply_adds(self),
        )


class _Score(nn.Module):
    """What `score.onnx` computes: log-likelihood [N], mean features [N,C·D'], feature map [N,H,W,C·D']."""

    def __init__(self, model: GatedPixelCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        levels = to_levels(image, self.model.image.levels)
        hidden = self.model.hidden_activations(levels, label)
        scores = _pick(self.model._logits_of(hidden), levels)
        feature_map = hidden.flatten(3)
        return scores.flatten(1).sum(1), feature_map.mean(dim=(1, 2)), feature_map


def _pick(logits: Tensor, levels: Tensor) -> Tensor:
    """Log-softmax of logits [...,K] at levels [...]."""
    return functional.log_softmax(logits.float(), dim=-1).gather(-1, levels.unsqueeze(-1)).squeeze(-1)
