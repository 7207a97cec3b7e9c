"""What is done to training images: each is moved and turned by its own few pixels and degrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ancestral_exporter.augmentation import View, shifted, turned
from ancestral_exporter.data import load
from ancestral_exporter.errors import UsageError
from ancestral_exporter.recipes import find


def test_each_image_is_moved_by_its_own_few_pixels() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (200, 4, 5, 3), dtype=np.uint8))
    torch.manual_seed(0)
    moved = shifted(images, 2)
    found = set()
    for image, after in zip(images, moved, strict=True):
        padded = torch.zeros(8, 9, 3, dtype=torch.uint8)
        padded[2:6, 2:7] = image
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[y : y + 4, x : x + 5], after)]
        assert len(places) == 1
        found.update(places)
    assert len(found) == 25
    assert shifted(images, 0) is images


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 5), (4, 7)])
def test_each_image_is_turned_about_its_middle_by_its_own_angle(height: int, width: int) -> None:
    """A bright pixel lands where trigonometry says, in rows and columns, however long they are."""
    images = torch.zeros(300, height, width, 2, dtype=torch.uint8)
    y, x = (height - 1) // 2, width // 2 + 1
    images[:, y, x] = 255
    torch.manual_seed(0)
    after = turned(images, 60).float()
    torch.manual_seed(0)
    angles = (2 * torch.rand(300) - 1) * math.radians(60)
    assert float(angles.min()) < -1.0
    assert float(angles.max()) > 1.0
    torch.testing.assert_close(after[..., 0], after[..., 1])
    light = after[..., 0] / after[..., 0].sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    found = torch.stack([(light * rows[:, None]).sum(dim=(1, 2)), (light * columns).sum(dim=(1, 2))], dim=1)
    dy, dx = y - (height - 1) / 2, x - (width - 1) / 2
    wanted = torch.stack([dy * angles.cos() - dx * angles.sin(), dx * angles.cos() + dy * angles.sin()], dim=1)
    # Bilinear weights of four pixels: its light lies within a quarter of a pixel of the place.
    assert float((found - wanted).abs().max()) < 0.25


def test_without_an_angle_nothing_is_touched() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), dtype=np.uint8))
    before = torch.get_rng_state()
    assert turned(images, 0) is images
    assert View(0, 0).of(images) is images
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("recipe", ["digits-vae", "digits-semi-supervised"])
def test_a_view_that_leaves_nothing_is_refused(recipe: str) -> None:
    more = ["model.view_weight=1"] if recipe == "digits-semi-supervised" else []
    chosen = find(recipe, ["model.view_shift=8", *more])
    with pytest.raises(UsageError, match=r"\[model\]: view_shift is 8, and images are 8×8: it must be smaller"):
        chosen.build(load(chosen.data).image)
    with pytest.raises(UsageError, match=r"\[model\] view_rotation = 181: Input should be less than or equal to 180"):
        find(recipe, ["model.view_rotation=181"])
