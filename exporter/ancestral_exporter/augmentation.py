"""What is done to training images, so that a model does not take chance for law.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ancestral_exporter.models.base import ImageShape


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


def turned(images: Tensor, most: float) -> Tensor:
    """Images [N,H,W,C] uint8, each turned about its middle by its own -most to `most` degrees; 0 comes in.

    What lies between pixels is interpolated, so a byte of the result need not be that of a level: models take the
    nearest one.
    """
    if not most:
        return images
    count, height, width, _ = images.shape
    angle = (2 * torch.rand(count, device=images.device) - 1) * math.radians(most)
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # In coordinates that run from -1 to 1 over either side, however long it is.
    rows = [cosine, -sine * height / width, none, sine * width / height, cosine, none]
    channels_first = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(channels_first.shape), False)
    found = functional.grid_sample(channels_first, grid, align_corners=False)
    return found.round().to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class View:
    """Another look at a training image: moved by up to `shift` pixels and turned by up to `rotation` degrees."""

    shift: int
    rotation: float

    def check(self, image: ImageShape) -> None:
        """Raises ValueError where nothing of such images might be left in sight."""
        if self.shift >= min(image.height, image.width):
            raise ValueError(
                f"view_shift is {self.shift}, and images are {image.height}×{image.width}: it must be smaller, so that "
                "something of each stays"
            )

    def of(self, images: Tensor) -> Tensor:
        """Images [N,H,W,C] uint8 as they look there."""
        return shifted(turned(images, self.rotation), self.shift)
