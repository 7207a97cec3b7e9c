"""The first PixelCNN: masked convolutions (van den Oord et al. 2016, "Pixel Recurrent Neural Networks", section 3.5).

A window over the pixels before (the paper's 7×7 of mask A) is followed by residual blocks around a 3×3 convolution of
mask B (figure 5, left). `x` is the predicted pixel, `o` what four blocks see of the pixels before it, `.` what none may
see, and `_` the blind spot, to the right above it, that no depth of such windows reaches:

    o o o o o _     It is here for comparison: `pixelcnn` has no blind spot, has gates, and costs less for as good a
    o o o o _ _     likelihood. The paper's masks within a pixel are not here: channels see each other in the head.
    o o x . . .

Letters: N images, H, W, C image axes, K levels, S channels within a block, D = 2S between blocks, F input features per
pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.models import masked_pixelcnn_rows
from ancestral_exporter.models.autoregressive import Autoregressive, initialise
from ancestral_exporter.models.base import Count, ImageShape, Positive, RasterGraph, Share
from ancestral_exporter.models.first_window import check_window, seen, window_convolutions, window_weights
from ancestral_exporter.models.head import Head, array, level_features, matrix
from ancestral_exporter.models.masked_pixelcnn_rows import BlockWeights, NetWeights, multiply_adds


class Block(nn.Module):
    """[N,D,H,W] in and out: ReLU and 1×1 to S, ReLU and 3×3 of mask B, ReLU and 1×1 back to D, added to the input."""

    def __init__(self, size: int, label_count: int, dropout: float) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(2 * size, size, 1)
        # The 3×3 of mask B in two: three taps on the row above, and the pixel before with the own one.
        self.above = nn.Conv2d(size, size, (1, 3), padding=(1, 1))
        self.own = nn.Conv2d(size, size, (1, 2), bias=False)
        self.label = nn.Embedding(label_count, size) if label_count else None
        self.dropout = nn.Dropout(dropout)
        self.grow = nn.Conv2d(size, 2 * size, 1, bias=False)

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        inner = functional.relu(self.shrink(functional.relu(inputs)))
        sums = self.above(inner)[:, :, : inner.shape[2]] + self.own(functional.pad(inner, (1, 0)))
        if self.label is not None:
            sums = sums + self.label(labels)[:, :, None, None]
        return cast(Tensor, inputs + self.grow(self.dropout(functional.relu(sums))))

    def weights(self) -> BlockWeights:
        """The present weights as arrays."""
        return BlockWeights(
            shrink=matrix(self.shrink),
            shrink_bias=array(self.shrink.bias),
            above=matrix(self.above),
            bias=array(self.above.bias),
            own=matrix(self.own),
            grow=matrix(self.grow),
            label=None if self.label is None else array(self.label.weight),
        )


@dataclass(frozen=True)
class MaskedPixelCNNSettings:
    """The `[model]` section of a recipe of the family "masked-pixelcnn".

    size: S, of the 3×3 convolutions; the maps between blocks have 2S channels. layers: blocks. head_channels: width of
    the hidden layer of the head, per image channel; 2S when unset. first_window: rows and (odd) columns that the first
    window sees of the rows above; first_pixels: pixels to the left that it sees; the paper's 7×7 is [3, 7] and 3.
    one_hot: feed the one-hot level beside its value. dropout: of what a block adds. label_count: classes to condition
    on; 0 for none.
    """

    size: Positive = 64
    layers: Positive = 15
    head_channels: Positive | None = None
    first_window: tuple[Positive, Positive] = (3, 7)
    first_pixels: Positive = 3
    one_hot: bool = False
    dropout: Share = 0.0
    label_count: Count = 0

    def __post_init__(self) -> None:
        check_window(self.first_window)


class MaskedPixelCNN(Autoregressive):
    """See the module's text."""

    family: ClassVar[str] = "masked-pixelcnn"
    settings_type: ClassVar[type[MaskedPixelCNNSettings]] = MaskedPixelCNNSettings

    def __init__(self, image: ImageShape, settings: MaskedPixelCNNSettings) -> None:
        super().__init__(image, settings)
        channels = 2 * settings.size
        self.label_count = settings.label_count
        self.head_channels = settings.head_channels or channels
        table = level_features(image.levels, one_hot=settings.one_hot)
        self.pixel_features = image.channels * table.shape[1]  # F
        self.above, self.before = window_convolutions(
            self.pixel_features, channels, settings.first_window, settings.first_pixels
        )
        self.blocks = nn.ModuleList(
            Block(settings.size, settings.label_count, settings.dropout) for _ in range(settings.layers)
        )
        self.head = Head(table, image.channels, channels, self.head_channels, self.values)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            initialise(module)
        # Residual streams add up as many blocks; keep their sum near unit variance.
        for block in self.blocks:
            cast(Block, block).grow.weight.data.div_(math.sqrt(len(self.blocks)))
        self.head.calm()

    def pixel_inputs(self, levels: Tensor) -> Tensor:
        """Features [N,F,H,W] float32 of levels [N,H,W,C] int64."""
        return self.head.features(levels)

    def hidden_activations(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """The last hidden activations [N,H,W,C,D'] of levels [N,H,W,C]: all that the logits are linear in."""
        features = self.pixel_inputs(levels)
        stream = seen(self.above, self.before, features)
        for block in self.blocks:
            stream = block(stream, labels)
        return self.head.activations(stream, features)

    def logits_of(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.head(hidden))

    def weights(self) -> NetWeights:
        """The present weights as arrays, the convolutions' as matrices over windows with channels last."""
        return NetWeights(
            window=window_weights(self.above, self.before),
            blocks=[cast(Block, block).weights() for block in self.blocks],
            head=self.head.weights(),
        )

    def row_graph(self) -> RasterGraph:
        net = self.weights()
        return RasterGraph(
            "sample.onnx",
            masked_pixelcnn_rows.role(self.image, net, "sample.onnx"),
            partial(masked_pixelcnn_rows.build, self.image, net),
            self.sample_by_passes,
            multiply_adds(net, self.image.height * self.image.width),
        )
