"""Bytes and intensity levels, and drawing levels from logits by the inverse CDF.

Everything here is exportable by `torch.onnx.export(dynamo=True)`. Letters: K intensity levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Temperatures below this are greedy: at 1e-30 every level but the most likely has probability exp(-huge) = 0.
COLDEST = 1e-30


def to_levels(images: Tensor, levels: int) -> Tensor:
    """The nearest of K levels, int64, of bytes of any shape.

    There are no ties: 2·b·(K−1) is even and 255·(2m+1) is odd. Products stay below 2^24, so float32 is exact enough.
    """
    return torch.round(images.to(torch.float32) * (levels - 1) / 255).to(torch.int64)


def from_levels(levels_of_pixels: Tensor, levels: int) -> Tensor:
    """The byte round(255 k / (K − 1)), halves to even as Python and numpy round, of levels k of any shape."""
    return torch.round(levels_of_pixels.to(torch.float32) * 255 / (levels - 1)).to(torch.uint8)


def inverse_cdf(logits: Tensor, uniforms: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Draw levels, int64 [...], from softmax(logits / temperature) with one uniform in [0,1) per draw.

    logits [...,K] float; uniforms [...] float32; temperature broadcasts against uniforms and is >= 0, 0 giving the most
    likely level. The level is the number of cumulated probabilities that are <= u, so a level of probability 0 is
    never drawn. The sum of the (unnormalised) probabilities scales u instead of dividing each of them.
    """
    inverse = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device).clamp_min(COLDEST).reciprocal()
    logits = logits.to(torch.float32)
    # Subtracting first makes the best level exactly 0, and 0 times any finite number stays 0: no NaN at temperature 0.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) * inverse.unsqueeze(-1)
    cumulated = torch.cumsum(torch.exp(scaled), dim=-1)
    passed = cumulated <= uniforms.unsqueeze(-1) * cumulated[..., -1:]
    return passed.sum(dim=-1).clamp_max(logits.shape[-1] - 1)
