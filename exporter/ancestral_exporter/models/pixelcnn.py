"""A gated PixelCNN built for exact sampling at the cost of little more than one parallel pass.

Two stacks, no blind spot (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", section 2.2;
gates section 2.1). `x` is the predicted pixel, `v` what the vertical stack sees, `h` what the horizontal one does:

    v v v v v     vertical: each layer looks at the row above and at its own row of the layer below (a 2×3 window);
    v v v v v     its first layer is fed the image moved down one row, so it knows only rows above x.
    h h x . .     horizontal: each layer looks at the pixel before and at its own of the layer below (a 1×2 window);
    . . . . .     its first layer is fed the image moved right one pixel. Each gets a 1×1 link from a vertical layer.

A dilated vertical layer looks d rows up instead of one, at three columns that lie c apart, and so sees farther with as
many weights (Yu & Koltun 2016, "Multi-Scale Context Aggregation by Dilated Convolutions").

Windows that look at one row above and one pixel before make caching cheap (Ramachandran et al. 2017, "Fast Generation
for Convolutional Autoregressive Models", section 2): d rows and one pixel of each layer are the whole state, of which
each row reads the oldest row and adds one, and zeros are exactly the padding. The vertical stack runs once per row,
over its whole width; only the horizontal stack runs pixel by pixel, so depth is better spent on the former. The head
reads the last horizontal layer: with a 1×1 projection after every gate, the residual stream already is the sum of skip
connections.

Letters: N images, H, W, C image axes, K levels, D channels, F input features per pixel, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.models import pixelcnn_rows
from ancestral_exporter.models.autoregressive import Autoregressive, initialise
from ancestral_exporter.models.base import Count, ImageShape, Positive, RasterGraph, Share
from ancestral_exporter.models.first_window import check_window
from ancestral_exporter.models.head import Head, array, level_features, matrix
from ancestral_exporter.models.likelihoods import MIXTURES, check_mixtures
from ancestral_exporter.models.pixelcnn_weights import LayerWeights, NetWeights, multiply_adds
from ancestral_exporter.models.values import MIXTURE, LogisticMixture


def gate(activations: Tensor) -> Tensor:
    """tanh of the first half of the channels times the sigmoid of the second: [N,2D,...] -> [N,D,...]."""
    signal, switch = activations.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(switch)


class GatedLayer(nn.Module):
    """A window over what came before, a gate, a 1×1 projection; `residual` adds the inputs, as in all but the first.

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
        residual: bool,
        label_count: int,
        dropout: float,
    ) -> None:
        super().__init__()
        top, across = ((taps - 1) * step for taps, step in zip(window, dilation, strict=True))
        # Left, right, top, bottom, as torch pads.
        self.padding = (across // 2, across // 2, top, 0) if centred else (across, 0, top, 0)
        self.residual = residual
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

    def weights(self) -> LayerWeights:
        """The present weights as arrays."""
        return LayerWeights(
            taps=cast(tuple[int, int], self.window.kernel_size),
            dilation=cast(tuple[int, int], self.window.dilation),
            window=matrix(self.window),
            bias=array(self.window.bias),
            project=matrix(self.project),
            link=None if self.link is None else matrix(self.link),
            label=None if self.label is None else array(self.label.weight),
        )


@dataclass(frozen=True)
class PixelCNNSettings:
    """The `[model]` section of a recipe of the family "pixelcnn".

    channels: D of both stacks. head_channels: width of the hidden layer of the head, per image channel; D when unset.
    first_window: rows and (odd) columns that the first vertical layer sees of the rows above; first_pixels: pixels to
    the left that the first horizontal layer sees. They are cheap, having few input channels, and let a shallow net see
    farther. one_hot: feed the one-hot level beside its value, for levels that are more than points on a scale.
    label_count: classes to condition on; 0 for none. likelihood: of a value's level, a softmax ("categorical"), or a
    mixture of logistics, which learns 256 levels as a scale; mixtures: how many, likelihoods.MIXTURES where unset. Each
    channel has a mixture of its own, which depends on the pixel's earlier channels through the head.

    row_dilations: how many rows up each vertical layer after the first looks; column_dilations: how many columns its
    taps lie apart. The second layer has the first entry, the third the second, and so on, from the first again when
    they are used up; entries that no layer is left for mean nothing. The last vertical layer sees as many rows above
    as the sum of `first_window[0]` and all its row dilations, at the cost of an undilated one: a layer that looks d
    rows up has d rows of state, of which one is read and one is written at each row.
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
    likelihood: Literal["categorical", "mixture-of-logistics"] = "categorical"
    mixtures: Positive | None = None
    dropout: Share = 0.0
    label_count: Count = 0

    def __post_init__(self) -> None:
        check_mixtures(self.likelihood, self.mixtures)
        if self.horizontal_layers > self.vertical_layers:
            raise ValueError(
                f"horizontal_layers ({self.horizontal_layers}) must be no more than vertical_layers "
                f"({self.vertical_layers})"
            )
        check_window(self.first_window)
        for name in ("row_dilations", "column_dilations"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one entry, [1] for no dilation")

    @property
    def dilations(self) -> list[tuple[int, int]]:
        """Of each vertical layer after the first: rows and columns."""
        pairs = zip(cycle(self.row_dilations), cycle(self.column_dilations), strict=True)
        return list(islice(pairs, self.vertical_layers - 1))


class GatedPixelCNN(Autoregressive):
    """See the module's text."""

    family: ClassVar[str] = "pixelcnn"
    settings_type: ClassVar[type[PixelCNNSettings]] = PixelCNNSettings

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
        self.label_count = settings.label_count
        self.head_channels = settings.head_channels or channels
        layer = partial(GatedLayer, channels=channels, label_count=settings.label_count, dropout=settings.dropout)

        table = level_features(image.levels, one_hot=settings.one_hot)
        self.pixel_features = image.channels * table.shape[1]  # F

        self.vertical = nn.ModuleList(
            [layer(self.pixel_features, window=settings.first_window, centred=True, residual=False)]
        )
        self.vertical.extend(
            layer(channels, window=(2, 3), dilation=dilation, centred=True, residual=True)
            for dilation in settings.dilations
        )
        self.horizontal = nn.ModuleList(
            layer(channels, window=(1, 2), centred=False, residual=True)
            if i
            else layer(self.pixel_features, window=(1, settings.first_pixels), centred=False, residual=False)
            for i in range(horizontal_layers)
        )
        # Horizontal layer i reads vertical layer links[i]; the last reads the last, which sees farthest.
        self.links = [(i + 1) * vertical_layers // horizontal_layers - 1 for i in range(horizontal_layers)]
        if settings.likelihood == MIXTURE:
            self.values = LogisticMixture(image.levels, settings.mixtures or MIXTURES)
        self.head = Head(table, image.channels, channels, self.head_channels, self.values)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            initialise(module)
        # Residual streams add up L projections; keep their sum near unit variance.
        for stack in (self.vertical, self.horizontal):
            for layer in stack:
                cast(GatedLayer, layer).project.weight.data.div_(math.sqrt(len(stack)))
        self.head.calm()

    def pixel_inputs(self, levels: Tensor) -> Tensor:
        """Features [N,F,H,W] float32 of levels [N,H,W,C] int64."""
        return self.head.features(levels)

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
        return self.head.activations(stream, features)

    def logits_of(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.head(hidden))

    def regions(self) -> Sequence[nn.Module]:
        return [*self.vertical, *self.horizontal]

    def weights(self) -> NetWeights:
        """The present weights as arrays, the convolutions' as matrices over windows with channels last."""
        return NetWeights(
            vertical=[cast(GatedLayer, layer).weights() for layer in self.vertical],
            horizontal=[cast(GatedLayer, layer).weights() for layer in self.horizontal],
            links=self.links,
            head=self.head.weights(),
        )

    def row_graph(self) -> RasterGraph:
        net = self.weights()
        return RasterGraph(
            "sample.onnx",
            pixelcnn_rows.role(self.image, net, "sample.onnx"),
            partial(pixelcnn_rows.build, self.image, net),
            self.sample_by_passes,
            multiply_adds(net, self.image.height * self.image.width),
        )
