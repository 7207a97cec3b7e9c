"""The picture of reconstructions is read at a glance, and the README's pictures are those that the demo leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral_client.pictures import grid
from ancestral_demo.pictures import in_groups, labelled_rows, manifold_points, take_over

PICTURES = Path(__file__).parents[3] / "clients" / "demo"


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_above_what_came_back_of_it(channels: int) -> None:
    random = np.random.default_rng(0)
    originals, decoded = random.integers(0, 256, (2, 16, 8, 8, channels), dtype=np.uint8)
    picture = np.asarray(labelled_rows(in_groups([("original", originals), ("decoded", decoded)])))
    tops = []
    for first in (0, 8):
        for images in (originals, decoded):
            row = np.asarray(Image.fromarray(grid(images[first : first + 8], 8)).convert("RGB"))
            height, width = row.shape[:2]
            part = picture[:, -width:]
            (top,) = [t for t in range(len(picture) - height + 1) if np.array_equal(part[t : t + height], row)]
            tops.append(top)
            label = picture[top : top + height, :-width]
            assert label.min() < 64  # there is something written
            assert label.max() == 255
    # A pair of rows lies together, and apart from the next pair.
    assert tops[0] + height == tops[1]
    assert tops[2] + height == tops[3]
    assert tops[1] + height < tops[2]


def test_what_the_columns_go_from_and_to_stands_below_them() -> None:
    images = np.zeros((3, 8, 8, 1), np.uint8)
    bare = np.asarray(labelled_rows([[("row", images)]]))
    picture = np.asarray(labelled_rows([[("row", images)]], ends=("z = -3", "z = +3")))
    np.testing.assert_array_equal(picture[: len(bare)], bare)
    below = picture[len(bare) :, -grid(images, 3).shape[1] :]
    middle = below.shape[1] // 2
    assert below[:, : middle // 2].min() < 64
    assert below[:, -middle // 2 :].min() < 64
    assert below[:, middle - 5 : middle + 5].min() == 255


def test_the_manifold_goes_through_the_prior_evenly() -> None:
    points = manifold_points(5)
    assert points.shape == (25, 2)
    np.testing.assert_allclose(points[12], 0, atol=1e-7)
    np.testing.assert_allclose(points[0], -1.2816, atol=1e-4)  # the first tenth of N(0, 1)
    # The first latent goes along a row, the second down the rows.
    assert (np.diff(points[:5, 0]) > 0).all()
    assert (np.diff(points[::5, 1]) > 0).all()


def test_pictures_are_taken_over_where_their_pixels_differ(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(PICTURES, here, ignore=lambda _, names: [name for name in names if not name.endswith(".png")])
    shutil.copytree(here, there)
    name = "samples-pixelcnn.png"
    with Image.open(here / name) as picture:
        picture.save(there / name, compress_level=0)  # other bytes, the same pixels
        assert not any(take_over(there, here).values())
        changed = picture.copy()
    changed.putpixel((0, 0), 0)
    changed.save(there / name)
    assert take_over(there, here) == {name: True, "samples-vae-mode.png": False}
    assert (here / name).read_bytes() == (there / name).read_bytes()
