"""A PixelCNN's parameters: as the matrices of a graph built by hand (float32 numpy arrays), and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from ancestral_exporter.models.pixelcnn import GatedLayer, GatedPixelCNN

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


def multiply_adds(model: GatedPixelCNN) -> dict[str, int]:
    """Multiply-adds of one exactly sampled image, by part of the net.

    The caches see to it that every weight meets every pixel once, as in one parallel pass. The vertical stack, with the
    links out of it, runs once a row, over the row's whole width; the rest runs pixel by pixel.
    """
    horizontal = layers_of(model.horizontal)
    links = [layer.link for layer in horizontal]
    parts: dict[str, list[nn.Module | None]] = {
        "vertical": [*_products(layers_of(model.vertical)), *links],
        "horizontal": _products(horizontal),
        "head": [model.hidden, *model.earlier, *model.logits],
    }
    pixels = model.image.height * model.image.width
    return {name: pixels * sum(map(_weights, modules)) for name, modules in parts.items()}


def _products(layers: list[GatedLayer]) -> list[nn.Module | None]:
    return [module for layer in layers for module in (layer.window, layer.project)]


def _weights(module: nn.Module | None) -> int:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module.weight.numel()
