"""What is done to training images, so that a model does not take chance for law.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shifted(images: Tensor, most: int) -> Tensor:
    """Images [N,H,W,C] uint8, each moved by its own -most to `most` rows and columns, with 0 where nothing was."""
    if not most:
        return images
    count, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, most, most, most, most))
    tops, lefts = torch.randint(0, 2 * most + 1, (2, count, 1), device=images.device)
    rows = (tops + torch.arange(height, device=images.device))[:, :, None]  # [N,H,1]
    columns = (lefts + torch.arange(width, device=images.device))[:, None, :]  # [N,1,W]
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns]
