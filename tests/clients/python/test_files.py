from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral_client import files, pictures
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem

FIT = Fit("toy", (4, 6, 1))


def test_small_images_are_enlarged() -> None:
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[4, 0, 0] = 255
    picture = pictures.grid(images)
    # 3 columns and 2 rows of 8 pixels with a gap of 1 around each, eight times enlarged.
    assert picture.shape == ((2 * 9 + 1) * 8, (3 * 9 + 1) * 8)
    assert (picture[10 * 8 : 11 * 8, 10 * 8 : 11 * 8] == 255).all()
    assert (picture == 255).sum() == 64
    assert (picture[10 * 8 :, 19 * 8 :] == 128).all(), "a place without an image is grey"


def test_large_and_colour_images_keep_their_size() -> None:
    assert pictures.grid(np.zeros((2, 100, 90, 3), np.uint8), columns=2).shape == (102, 183, 3)


def test_other_channels_make_no_picture(tmp_path: Path) -> None:
    images = np.zeros((1, 8, 8, 2), np.uint8)
    with pytest.raises(pictures.UnclearPicture, match="2 channels"):
        pictures.grid(images)
    with pytest.raises(FileProblem, match=r"grid\.png: images with 2 channels .* write \.npy"):
        files.write_images(tmp_path / "grid.png", images, {})


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    files.write_images(tmp_path / "a.npy", images, {"seed": np.array(7)})
    files.write_images(tmp_path / "a.npz", images, {"seed": np.array(7), "nothing": None})
    assert np.array_equal(files.read_array(tmp_path / "a.npy", ()), images)
    assert np.array_equal(files.read_array(tmp_path / "a.npz", ("images",)), images)
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive.files) == ["images", "seed"]


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (1, 4, 6, 1), (1, 4, 6)])
def test_an_array_may_lack_axes_and_holds_one_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(24, dtype=np.uint8)
    np.save(tmp_path / "a.npy", array.reshape(shape))
    assert np.array_equal(files.read_image(tmp_path / "a.npy", FIT)[0], array.reshape(4, 6, 1))
    np.savez(tmp_path / "a.npz", known=array.reshape(shape) > 5, other=array)
    assert np.array_equal(files.read_mask(tmp_path / "a.npz", FIT), array.reshape(4, 6, 1) > 5)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((6, 4), "is 6×4, toy takes 4×6; --resize crop, fit or stretch makes it so"),
        ((2, 4, 6, 1), "holds 2 images, one is wanted"),
        ((1, 4, 6, 2), "has shape [1, 4, 6, 2]; toy takes [N,4,6,1], [4,6,1], [N,4,6], [4,6]"),
        ((5, 6, 4, 1), "holds images of 6×4, toy takes 4×6; --resize crop, fit or stretch makes it so"),
        ((24,), "has shape [24]; toy takes [N,4,6,1], [4,6,1], [N,4,6], [4,6]"),
        ((), "has shape []; toy takes [N,4,6,1], [4,6,1], [N,4,6], [4,6]"),
    ],
)
def test_what_is_not_one_image_of_the_models_size_is_told_with_both_sizes(
    tmp_path: Path, shape: tuple[int, ...], said: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    np.save(tmp_path / "m.npy", np.zeros(shape, bool))
    with pytest.raises(FileProblem) as caught:
        files.read_image(tmp_path / "a.npy", FIT)
    assert str(caught.value) == f"{tmp_path / 'a.npy'}: {said}"
    with pytest.raises(FileProblem) as caught:
        files.read_mask(tmp_path / "m.npy", FIT)
    assert str(caught.value) == f"{tmp_path / 'm.npy'}: has shape {list(shape)}, the model's images have [4, 6, 1]"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_white_pixels_are_kept_of_all_channels(tmp_path: Path, mode: str) -> None:
    black_and_white = np.zeros((4, 6), np.uint8)
    black_and_white[:2] = 255
    Image.fromarray(black_and_white).convert(mode).save(tmp_path / "m.png")
    for channels in (1, 3):
        mask = files.read_mask(tmp_path / "m.png", Fit("toy", (4, 6, channels)))
        assert mask.shape == (4, 6, channels)
        assert np.array_equal(mask.all(-1), black_and_white == 255)
        assert np.array_equal(mask.any(-1), black_and_white == 255)


def test_a_mask_of_one_value_was_meant_otherwise(tmp_path: Path) -> None:
    ones = np.zeros((4, 6), np.uint8)
    ones[:2] = 1
    Image.fromarray(ones).save(tmp_path / "m.png")
    with pytest.raises(FileProblem, match=r"m\.png: keeps no pixel.*white pixels"):
        files.read_mask(tmp_path / "m.png", FIT)
    np.save(tmp_path / "m.npy", np.ones((4, 6), bool))
    with pytest.raises(FileProblem, match=r"m\.npy: keeps every pixel"):
        files.read_mask(tmp_path / "m.npy", FIT)


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
    for suffix in (".npy", ".npz"):
        with pytest.raises(FileProblem, match=rf"text{suffix}: is not a {suffix} file$"):
            files.read_array(tmp_path / f"text{suffix}", ())
    with pytest.raises(FileProblem, match="no such file"):
        files.read_array(tmp_path / "none.npy", ())


def test_targets_are_checked_before_the_work(tmp_path: Path) -> None:
    files.check_target(tmp_path / "a.png", ".png")
    with pytest.raises(FileProblem, match=r"must end in \.png or \.npy"):
        files.check_target(tmp_path / "a.jpg", ".png", ".npy")
    with pytest.raises(FileProblem, match="there is no folder"):
        files.check_target(tmp_path / "none" / "a.png", ".png")
