"""The first window of a net over pixels in raster order: rows above a pixel, and pixels to its left (a mask A).

It is two convolutions, `above` and `before`, since a painter of rows computes the first for a whole row at once.

Letters: N images, H, W image axes, D channels of the net, F input features per pixel.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from ancestral_exporter.models.head import array, matrix
from ancestral_exporter.models.row_graph import WindowWeights


def check_window(first_window: tuple[int, int]) -> None:
    """ValueError unless the rows and columns that a recipe gives for the rows above can be centred on a pixel."""
    if first_window[1] % 2 == 0:
        raise ValueError(f"first_window must have an odd number of columns, not {first_window[1]}")


def window_convolutions(
    features: int, channels: int, taps: tuple[int, int], pixels: int
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """F to D, over rows and (odd) columns of the rows above, and over so many pixels to the left."""
    rows, columns = taps
    above = nn.Conv2d(features, channels, (rows, columns), padding=(rows, columns // 2))
    return above, nn.Conv2d(features, channels, (1, pixels), bias=False)


def seen(above: nn.Conv2d, before: nn.Conv2d, features: Tensor) -> Tensor:
    """What the two convolutions make of features [N,F,H,W], their sum [N,D,H,W]."""
    left = functional.pad(features, (before.kernel_size[1], 0))[..., :-1]
    return cast(Tensor, above(features)[:, :, : features.shape[2]] + before(left))


def window_weights(above: nn.Conv2d, before: nn.Conv2d) -> WindowWeights:
    """The present weights as arrays."""
    rows, columns = above.kernel_size
    return WindowWeights((rows, columns), above=matrix(above), before=matrix(before), bias=array(above.bias))
