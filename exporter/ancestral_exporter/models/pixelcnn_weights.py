"""A PixelCNN's parameters as the matrices of a graph built by hand: float32 numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from ancestral_exporter.models.pixelcnn import GatedLayer

Array = np.ndarray[Any, Any]


def layers_of(stack: nn.ModuleList) -> list[GatedLayer]:
    return list(stack)  # type: ignore[arg-type]


def as_linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def as_array(tensor: Tensor | None) -> Array:
    assert tensor is not None
    return np.asarray(tensor.detach().cpu().float().numpy())


def as_matrix(weight: Tensor) -> Array:
    """A convolution's weight [out,in,rows,columns] as [rows·columns·in, out], for windows with channels last."""
    return as_array(weight.permute(2, 3, 1, 0).flatten(0, 2))


def halves_of(array: Array, axis: int) -> list[Array]:
    return np.split(array, 2, axis=axis)
