"""The table of the README: what each kind of picture is read as, or what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ancestral_client import files
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem
from picturefiles import GREY, READ, REFUSED, REPEATED, RGB, Made, palette, png, saved, turned


def _write(path: Path, made: Made) -> Path:
    path.write_bytes(made if isinstance(made, bytes) else saved(made, "png"))
    return path


@pytest.mark.parametrize("name", READ)
def test_what_has_one_meaning_is_read_so(tmp_path: Path, name: str) -> None:
    make, expected = READ[name]
    found = files.read_images(_write(tmp_path / "picture", make()))
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    # One level for the way to CMYK and back, and for how Pillow rounds five levels and mixes colours.
    rounded = name in ("CMYK", "PGM of 5 levels", "transparent colours")
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= (1 if rounded else 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mean_several_things_is_refused_by_every_reader(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    path = _write(tmp_path / "picture", make())
    for read in (
        lambda: files.read_images(path),
        lambda: files.read_image(path, Fit("toy", (4, 6, 1))),
        lambda: files.read_image(path, Fit("toy", (4, 6, 3))),
        lambda: files.read_mask(path, Fit("toy", (4, 6, 1))),
    ):
        with pytest.raises(FileProblem) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_mask_is_refused_for_its_white_ground_would_keep_pixels(tmp_path: Path, bits: int) -> None:
    rows = [(b"\0" * 3 + b"\xff" * 3) * (bits // 8)] * 4
    fit = Fit("toy", (4, 6, 1))
    assert files.read_mask(_write(tmp_path / "mask", png(bits, 0, rows)), fit).sum() == (12 if bits == 8 else 8)
    with pytest.raises(FileProblem, match="mask: has transparent pixels; flatten it: white keeps a pixel"):
        files.read_mask(_write(tmp_path / "mask", png(bits, 0, rows, b"tRNS\0\0")), fit)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_turn_them(tmp_path: Path, orientation: int) -> None:
    path = _write(tmp_path / "p.png", turned(orientation))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(files.read_images(path), expected)
    assert (expected.shape == (4, 6)) == (orientation < 5)


def test_what_the_camera_wrote_of_itself_may_be_broken(tmp_path: Path) -> None:
    broken = png(8, 0, [row.tobytes() for row in GREY], b"eXIfII*\0\xff\xff\xff\xff")
    assert np.array_equal(files.read_images(_write(tmp_path / "p.png", broken)), GREY)


def test_a_preview_beside_a_photograph_does_not_count(tmp_path: Path) -> None:
    preview = Image.fromarray(GREY[:2, :3])
    path = _write(tmp_path / "p.jpg", saved(Image.fromarray(GREY), "mpo", save_all=True, append_images=[preview]))
    assert files.read_images(path).shape == (4, 6)


@pytest.mark.parametrize("kind", ["grey", "RGB of equal channels", "palette", "colours"])
def test_channels_become_those_of_the_model(tmp_path: Path, kind: str) -> None:
    array = {"grey": GREY, "RGB of equal channels": REPEATED, "colours": RGB}
    path = _write(tmp_path / "p.png", palette(GREY) if kind == "palette" else Image.fromarray(array[kind]))
    grey, lost = files.read_image(path, Fit("toy", (4, 6, 1)))
    colour, lost_in_colour = files.read_image(path, Fit("toy", (4, 6, 3)))
    assert (lost, lost_in_colour) == (kind == "colours", False)
    if kind == "colours":
        assert np.array_equal(colour, RGB)
        assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(RGB).convert("L")))
    else:
        assert np.array_equal(grey[..., 0], GREY)
        assert np.array_equal(colour, REPEATED)
