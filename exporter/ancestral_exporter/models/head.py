"""The two ends of an autoregressive net: levels made features, and activations made numbers that say which level.

Letters: N images, H, W, C image axes, K levels, D channels of the net, D' of the head, F features per pixel, P numbers
that say how probable each level is.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.models.row_graph import Array, HeadWeights
from ancestral_exporter.models.values import LogisticMixture, ValueDistribution


def level_features(levels: int, *, one_hot: bool) -> Tensor:
    """[K,F/C]: a level's value in [-1,1], then its one-hot code. Zeros stand for what lies outside the image."""
    values = torch.linspace(-1, 1, levels)[:, None]
    return torch.cat([values, torch.eye(levels)], dim=1) if one_hot else values


class Head(nn.Module):
    """A hidden layer per image channel, and the numbers for `values`; a channel sees those before it in the pixel.

    table: `level_features`. inputs: D. channels: D', for each of the `image_channels`.
    """

    def __init__(
        self, table: Tensor, image_channels: int, inputs: int, channels: int, values: ValueDistribution
    ) -> None:
        super().__init__()
        self.channels, self.values = channels, values
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)
        self.hidden = nn.Conv2d(inputs, image_channels * channels, 1)
        self.earlier = nn.ModuleList(
            nn.Linear(c * table.shape[1], channels, bias=False) for c in range(1, image_channels)
        )
        self.logits = nn.ModuleList(nn.Linear(channels, values.parameters) for _ in range(image_channels))

    def features(self, levels: Tensor) -> Tensor:
        """Features [N,F,H,W] float32 of levels [N,H,W,C] int64."""
        return self.table[levels].flatten(3).permute(0, 3, 1, 2)

    def activations(self, stream: Tensor, features: Tensor) -> Tensor:
        """The hidden layer [N,H,W,C,D'] of a net's output [N,D,H,W] and the pixels' own features [N,F,H,W]."""
        hidden = self.hidden(functional.relu(stream)).permute(0, 2, 3, 1)  # [N,H,W,C·D']
        pixel = features.permute(0, 2, 3, 1)  # [N,H,W,F]
        channels = list(hidden.split(self.channels, dim=3))
        for i, earlier in enumerate(self.earlier):
            channels[i + 1] = channels[i + 1] + earlier(pixel[..., : earlier.in_features])
        return functional.relu(torch.stack(channels, dim=3))

    def forward(self, hidden: Tensor) -> Tensor:
        """Numbers [N,H,W,C,P] of `activations` [N,H,W,C,D']."""
        return torch.stack([linear(hidden[:, :, :, c]) for c, linear in enumerate(self.logits)], dim=3)

    def calm(self) -> None:
        """Halve the weights of the last layer, once a net is initialised: the first guesses are near the middle."""
        for linear in self.logits:
            cast(nn.Linear, linear).weight.data.mul_(0.5)

    def weights(self) -> HeadWeights:
        """The present weights as arrays."""
        return HeadWeights(
            feature_table=array(self.table),
            hidden=matrix(self.hidden),
            hidden_bias=array(self.hidden.bias),
            earlier=[matrix(linear) for linear in self.earlier],
            logits=[(matrix(linear), array(linear.bias)) for linear in self.logits],
            mixture=self.values if isinstance(self.values, LogisticMixture) else None,
        )


def array(tensor: Any) -> Array:
    """A copy of a tensor, float32."""
    return np.array(tensor.detach().cpu().numpy(), np.float32)


def matrix(module: Any) -> Array:
    """A convolution's weight [out,in,rows,columns] as [rows·columns·in,out], a linear layer's [out,in] as [in,out]."""
    weight = module.weight
    return array(weight.permute(2, 3, 1, 0).flatten(0, 2) if weight.ndim == 4 else weight.T)
