"""PixelRNN: an image read and painted by LSTMs (van den Oord et al. 2016, "Pixel Recurrent Neural Networks").

A window over the pixels before (the paper's 7×7 of mask A) is followed by residual layers of LSTMs, of either kind
(sections 3.1 to 3.3). `x` is the predicted pixel, `.` what nothing may see:

    row-lstm              s s s s s     runs down the image, a row a step: the state of a column sees the states of
                          . s s s .     three columns in the row above, and the layer's input at its own pixel and the
                          i x . . .     one before. So it misses the corners of what is above, and is quick to train.

    diagonal-bilstm       b b b b b     two LSTMs. One (s) comes from the upper left: its state sees those of the pixel
                          s s b b b     to the left and of the pixel above. The other (b) comes from the upper right and
                          s x . . .     is moved down one row, so that it has seen only finished rows: all that is
                                        above but the last pixel of the row above, which only the window can see.

The paper's masks within a pixel are not here: its channels see each other in the head, as in our PixelCNN. Row by row
the whole state is what the row above left: a row LSTM's hidden states and cells, and the hidden states of a diagonal
one's two directions. So a row is painted in one run, pixel by pixel through all layers (`pixelrnn_rows`); the direction
that comes from the right runs over it when it is finished. A training takes the pixels of a row, or of a diagonal, in
one step: the map is skewed, so that a diagonal is a column (section 3.2).

Letters: N images, H, W, C image axes, K levels, S size of a state, D = 2S channels between layers, F input features per
pixel, T = H+W−1 diagonals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.models import pixelrnn_rows
from ancestral_exporter.models.autoregressive import Autoregressive, initialise
from ancestral_exporter.models.base import Count, ImageShape, Positive, RasterGraph, Share
from ancestral_exporter.models.first_window import check_window, seen, window_convolutions, window_weights
from ancestral_exporter.models.head import Head, array, level_features, matrix
from ancestral_exporter.models.pixelrnn_weights import DirectionWeights, LayerWeights, NetWeights, multiply_adds
from ancestral_exporter.models.recurrence import convolutional_lstm, skew, unskew


class RowLSTM(nn.Module):
    """[N,H,W,D] -> [N,H,W,S]: what the row LSTM of one layer says at each pixel (section 3.1)."""

    # A state sees the columns to the left, its own, and to the right, a row above.
    OFFSETS = (-1, 0, 1)

    def __init__(self, size: int, label_count: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inputs = nn.Linear(2 * 2 * size, 4 * size)
        self.dropout = nn.Dropout(dropout)
        self.states = nn.Parameter(torch.empty(1, len(self.OFFSETS) * size, 4 * size))
        self.label = nn.Embedding(label_count, 4 * size) if label_count else None

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        before = functional.pad(inputs, (0, 0, 1, 0))[:, :, :-1]
        gates = self.inputs(torch.cat([before, inputs], dim=3))
        if self.label is not None:
            gates = gates + self.label(labels)[:, None, None]
        by_row = gates.movedim(1, 0).unsqueeze(1)  # [H,1,N,W,4S]
        return convolutional_lstm(by_row, self.dropout(self.states), self.OFFSETS)[:, 0].movedim(0, 1)

    def weights(self) -> tuple[DirectionWeights, None]:
        return (
            DirectionWeights(
                inputs=matrix(self.inputs),
                bias=array(self.inputs.bias),
                above=array(self.states[0]),
                label=None if self.label is None else array(self.label.weight),
            ),
            None,
        )


class DiagonalBiLSTM(nn.Module):
    """[N,H,W,D] -> [N,H,W,S]: what the two diagonal LSTMs of one layer say at each pixel, added (section 3.2)."""

    # Along a diagonal, the row above has its pixel above, and the own row the pixel beside, one step before.
    OFFSETS = (-1, 0)

    def __init__(self, size: int, label_count: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.dropout = nn.Dropout(dropout)
        self.inputs = nn.Linear(2 * size, 2 * 4 * size)  # both directions
        self.states = nn.Parameter(torch.empty(2, len(self.OFFSETS) * size, 4 * size))
        self.label = nn.Embedding(label_count, 2 * 4 * size) if label_count else None

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        gates = self.inputs(inputs)
        if self.label is not None:
            gates = gates + self.label(labels)[:, None, None]
        forward, backward = gates.chunk(2, dim=3)
        both = torch.stack([forward, backward.flip(2)])  # [2,N,H,W,4S]
        # What is beyond the image adds nothing to any gate, and so has zeros for a state.
        states = unskew(convolutional_lstm(skew(both), self.dropout(self.states), self.OFFSETS), inputs.shape[2])
        finished = functional.pad(states[1].flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]
        return states[0] + finished

    def weights(self) -> tuple[DirectionWeights, DirectionWeights]:
        def direction(index: int) -> DirectionWeights:
            part = slice(4 * self.size * index, 4 * self.size * (index + 1))
            return DirectionWeights(
                inputs=array(self.inputs.weight[part].T),
                bias=array(self.inputs.bias[part]),
                above=array(self.states[index, : self.size]),
                beside=array(self.states[index, self.size :]),
                label=None if self.label is None else array(self.label.weight[:, part]),
            )

        return direction(0), direction(1)


KINDS: dict[str, type[RowLSTM] | type[DiagonalBiLSTM]] = {"row-lstm": RowLSTM, "diagonal-bilstm": DiagonalBiLSTM}


class Layer(nn.Module):
    """Maps of D = 2S channels through LSTMs of S, and back to D by a 1×1 projection, which is added (section 3.3)."""

    def __init__(self, kind: str, size: int, label_count: int, dropout: float) -> None:
        super().__init__()
        self.lstm = KINDS[kind](size, label_count, dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(size, 2 * size, bias=False)  # the next gates have a bias

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        return cast(Tensor, inputs + self.project(self.dropout(self.lstm(self.dropout(inputs), labels))))

    def weights(self) -> LayerWeights:
        forward, backward = self.lstm.weights()
        return LayerWeights(forward, backward, matrix(self.project))


@dataclass(frozen=True)
class PixelRNNSettings:
    """The `[model]` section of a recipe of the family "pixelrnn".

    layer: the kind of all layers. size: S, of an LSTM's state; the maps between layers have 2S channels. layers: how
    many. head_channels: width of the hidden layer of the head, per image channel; 2S when unset. first_window: rows and
    (odd) columns that the first window sees of the rows above; first_pixels: pixels to the left that it sees. one_hot:
    feed the one-hot level beside its value, for levels that are more than points on a scale. dropout: of what the first
    window says, of what the LSTMs are given and say, and of their recurrent weights (Merity et al. 2017, "Regularizing
    and Optimizing LSTM Language Models"). label_count: classes to condition on; 0 for none.
    """

    layer: Literal["row-lstm", "diagonal-bilstm"] = "diagonal-bilstm"
    size: Positive = 32
    layers: Positive = 4
    head_channels: Positive | None = None
    first_window: tuple[Positive, Positive] = (3, 7)
    first_pixels: Positive = 3
    one_hot: bool = False
    dropout: Share = 0.0
    label_count: Count = 0

    def __post_init__(self) -> None:
        check_window(self.first_window)


class PixelRNN(Autoregressive):
    """See the module's text."""

    family: ClassVar[str] = "pixelrnn"
    settings_type: ClassVar[type[PixelRNNSettings]] = PixelRNNSettings

    def __init__(self, image: ImageShape, settings: PixelRNNSettings) -> None:
        super().__init__(image, settings)
        channels = 2 * settings.size
        self.label_count = settings.label_count
        self.head_channels = settings.head_channels or channels

        table = level_features(image.levels, one_hot=settings.one_hot)
        self.pixel_features = image.channels * table.shape[1]  # F

        self.above, self.before = window_convolutions(
            self.pixel_features, channels, settings.first_window, settings.first_pixels
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(
            Layer(settings.layer, settings.size, settings.label_count, settings.dropout) for _ in range(settings.layers)
        )
        self.head = Head(table, image.channels, channels, self.head_channels, self.values)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            initialise(module)
            if isinstance(module, RowLSTM | DiagonalBiLSTM):
                nn.init.normal_(module.states, std=1 / math.sqrt(module.states.shape[1]))
        # Residual streams add up L projections; keep their sum near unit variance.
        for layer in self.layers:
            cast(Layer, layer).project.weight.data.div_(math.sqrt(len(self.layers)))
        self.head.calm()

    def pixel_inputs(self, levels: Tensor) -> Tensor:
        """Features [N,F,H,W] float32 of levels [N,H,W,C] int64."""
        return self.head.features(levels)

    def hidden_activations(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """The last hidden activations [N,H,W,C,D'] of levels [N,H,W,C]: all that the logits are linear in."""
        features = self.pixel_inputs(levels)
        stream = self.dropout(seen(self.above, self.before, features).permute(0, 2, 3, 1))  # [N,H,W,D]
        for layer in self.layers:
            stream = layer(stream, labels)
        return self.head.activations(stream.permute(0, 3, 1, 2), features)

    def logits_of(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.head(hidden))

    def weights(self) -> NetWeights:
        """The present weights as arrays, the convolutions' as matrices over windows with channels last."""
        return NetWeights(
            window=window_weights(self.above, self.before),
            layers=[cast(Layer, layer).weights() for layer in self.layers],
            head=self.head.weights(),
        )

    def row_graph(self) -> RasterGraph:
        net = self.weights()
        return RasterGraph(
            "sample.onnx",
            pixelrnn_rows.role(self.image, net, "sample.onnx"),
            partial(pixelrnn_rows.build, self.image, net),
            self.sample_by_passes,
            multiply_adds(net, self.image.height * self.image.width),
        )
