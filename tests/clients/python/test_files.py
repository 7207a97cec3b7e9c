from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral_client import files
from ancestral_client.files import FileProblem


def test_small_images_are_enlarged() -> None:
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[4, 0, 0] = 255
    picture = files.grid(images)
    # 3 columns and 2 rows of 8 pixels with a gap of 1 around each, eight times enlarged.
    assert picture.shape == ((2 * 9 + 1) * 8, (3 * 9 + 1) * 8)
    assert (picture[10 * 8 : 11 * 8, 10 * 8 : 11 * 8] == 255).all()
    assert (picture == 255).sum() == 64
    assert (picture[10 * 8 :, 19 * 8 :] == 128).all(), "a place without an image is grey"


def test_large_and_colour_images_keep_their_size() -> None:
    assert files.grid(np.zeros((2, 100, 90, 3), np.uint8), columns=2).shape == (102, 183, 3)


def test_other_channels_make_no_picture() -> None:
    with pytest.raises(FileProblem, match="2 channels"):
        files.grid(np.zeros((1, 8, 8, 2), np.uint8))


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    files.write_images(tmp_path / "a.npy", images, {"seed": np.array(7)})
    files.write_images(tmp_path / "a.npz", images, {"seed": np.array(7), "nothing": None})
    assert np.array_equal(files.read_array(tmp_path / "a.npy", ()), images)
    assert np.array_equal(files.read_array(tmp_path / "a.npz", ("images",)), images)
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive.files) == ["images", "seed"]


def test_pictures_are_read_as_grey_or_rgb(tmp_path: Path) -> None:
    for mode, shape in (("L", (4, 6)), ("1", (4, 6)), ("RGB", (4, 6, 3)), ("RGBA", (4, 6, 3)), ("P", (4, 6, 3))):
        Image.new(mode, (6, 4)).save(tmp_path / "p.png")
        assert files.read_array(tmp_path / "p.png", ()).shape == shape, mode
    assert files.read_array(tmp_path / "p.png", ()).dtype == np.uint8


def test_a_single_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", anything=np.ones(3))
    assert files.read_array(tmp_path / "one.npz", ("images",)).shape == (3,)
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(FileProblem, match="holds a, b; expected one array, or one of images"):
        files.read_array(tmp_path / "two.npz", ("images",))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object))
    for name in ("text.png", "text.npy", "text.npz", "empty.npy", "pickle.npy", "none.npy"):
        with pytest.raises(FileProblem, match=name):
            files.read_array(tmp_path / name, ())
    with pytest.raises(FileProblem, match="no such file"):
        files.read_array(tmp_path / "none.npy", ())


def test_targets_are_checked_before_the_work(tmp_path: Path) -> None:
    files.check_target(tmp_path / "a.png", ".png")
    with pytest.raises(FileProblem, match=r"must end in \.png or \.npy"):
        files.check_target(tmp_path / "a.jpg", ".png", ".npy")
    with pytest.raises(FileProblem, match="there is no folder"):
        files.check_target(tmp_path / "none" / "a.png", ".png")
