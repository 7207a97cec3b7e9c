"""Results as pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral_client import Decoding, Info, InvalidArgument
from ancestral_client.replacing import FileProblem

INFO = Info("", "m", 1, 0.0, 0.0, 0.0)


def decoding(channels: int) -> Decoding:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8)
    return Decoding(images=images, info=INFO)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grey_and_colour_images_are_pictures_of_themselves(channels: int, mode: str, tmp_path: Path) -> None:
    result = decoding(channels)
    found = result.to_pil()
    assert [picture.mode for picture in found] == [mode] * 5
    assert np.array_equal(np.stack([np.asarray(p).reshape(8, 8, channels) for p in found]), result.images)
    assert result.grid(columns=5).size == ((5 * 9 + 1) * 8, (1 * 9 + 1) * 8)
    shown = result._repr_png_()
    assert shown is not None
    result.save(tmp_path / "grid.png")
    result.save(str(tmp_path / "images.npy"))
    for png in (Image.open(io.BytesIO(shown)), Image.open(tmp_path / "grid.png")):
        assert np.array_equal(np.asarray(png), np.asarray(result.grid()))
    assert np.array_equal(np.load(tmp_path / "images.npy"), result.images)


def test_what_makes_no_picture_says_so(tmp_path: Path) -> None:
    two = decoding(2)
    assert two._repr_png_() is None, "a notebook shows the text instead"
    for call in (two.to_pil, two.grid):
        with pytest.raises(ValueError, match="2 channels make no picture"):
            call()
    for name, problem in (("grid.png", "2 channels"), ("grid.gif", "must end in"), ("no/grid.npy", "no folder")):
        with pytest.raises(FileProblem, match=problem):
            two.save(tmp_path / name)
    with pytest.raises(InvalidArgument, match="columns: is 0"):
        decoding(1).grid(columns=0)
