"""The table of the README: what each kind of picture is read as, or what is said of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from ancestral_client import files
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem

GREY = np.random.default_rng(5).integers(2, 256, (4, 6), dtype=np.uint8)
GREY[0, :2] = 0, 255
RGB = np.random.default_rng(6).integers(0, 256, (4, 6, 3), dtype=np.uint8)
BLACK_AND_WHITE = np.where(GREY > 127, np.uint8(255), np.uint8(0))
OPAQUE, HOLE = np.full((4, 6), 255, np.uint8), np.full((4, 6), 255, np.uint8)
HOLE[1, 2] = 254
REPEATED = np.repeat(GREY[..., np.newaxis], 3, axis=2)

Made = Image.Image | bytes


def png(depth: int, colours: int, rows: list[bytes], *chunks: bytes) -> bytes:
    """A PNG that Pillow cannot write, 6 pixels wide."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 6, len(rows), depth, colours, 0, 0, 0)
    more = b"".join(chunk(content[:4], content[4:]) for content in chunks)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def wide(array: np.ndarray) -> list[bytes]:
    """The rows of an array as 16-bit values, as PNG has them."""
    return [row.astype(">u2").tobytes() for row in array]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(levels: np.ndarray, **options: Any) -> bytes:
    """A PNG with a palette that runs backwards, so that an index is never its level."""
    paletted = Image.frombytes("P", levels.shape[::-1], (255 - levels).tobytes())
    paletted.putpalette([255 - index for index in range(256) for _ in range(3)])
    return saved(paletted, "png", **options)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(GREY), "png", exif=exif)


def several(kind: str) -> bytes:
    return saved(Image.fromarray(GREY), kind, save_all=True, append_images=[Image.fromarray(BLACK_AND_WHITE)])


def white_is_zero() -> bytes:
    return saved(Image.fromarray(GREY.astype(np.uint16) * 257), "tiff", tiffinfo={262: 0})


def merge(mode: str, *bands: np.ndarray) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(band) for band in bands])


READ: dict[str, tuple[Callable[[], Made], np.ndarray]] = {
    "grey": (lambda: Image.fromarray(GREY), GREY),
    "1 bit": (lambda: Image.fromarray(BLACK_AND_WHITE).convert("1"), BLACK_AND_WHITE),
    "4 bits": (lambda: png(4, 0, [bytes([0x0F, 0x80, 0x01])] * 4), np.array([[0, 255, 136, 0, 0, 17]] * 4)),
    "RGB": (lambda: Image.fromarray(RGB), RGB),
    "grey with opaque alpha": (lambda: merge("LA", GREY, OPAQUE), GREY),
    "RGB with opaque alpha": (lambda: merge("RGBA", *np.moveaxis(RGB, 2, 0), OPAQUE), RGB),
    "palette": (lambda: palette(GREY), REPEATED),
    "palette with an unused transparent colour": (lambda: palette(GREY, transparency=254), REPEATED),
    "grey with an unused transparent level": (lambda: saved(Image.fromarray(GREY), "png", transparency=1), GREY),
    "CMYK": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "tiff"), RGB),
    "16 bits": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "16 bits, all black": (lambda: Image.fromarray(np.zeros((4, 6), np.uint16)), np.zeros((4, 6))),
    "16 bits, big-endian TIFF": (
        lambda: saved(Image.frombytes("I;16B", (6, 4), b"".join(wide(GREY * np.uint16(257)))), "tiff"),
        GREY,
    ),
    "48 bits": (lambda: png(16, 2, wide(RGB.reshape(4, 18).astype(np.uint16) * 257)), RGB),
    "PGM of 16 bits": (lambda: b"P5 6 4 65535\n" + b"".join(wide(GREY.astype(np.uint16) * 257)), GREY),
    "PGM of 5 levels": (lambda: b"P2 6 1 4\n0 1 2 3 4 4", np.array([[0, 64, 128, 191, 255, 255]])),
    "integers of 32 bits": (lambda: saved(Image.fromarray(GREY.astype(np.int32)), "tiff"), GREY),
    "floats that are levels": (lambda: saved(Image.fromarray(GREY.astype(np.float32)), "tiff"), GREY),
    "a colour profile": (
        lambda: saved(
            Image.fromarray(RGB), "png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        RGB,
    ),
    "a camera upside down": (lambda: turned(3), GREY[::-1, ::-1]),
    "a mirror": (lambda: turned(2), GREY[:, ::-1]),
    "text beside it": (lambda: saved(Image.fromarray(GREY), "png", pnginfo=_text()), GREY),
}

REFUSED: dict[str, tuple[Callable[[], Made], str]] = {
    "a digit drawn in alpha": (lambda: merge("LA", np.zeros_like(GREY), GREY), "has transparent pixels; flatten it"),
    "one pixel nearly opaque": (lambda: merge("RGBA", *np.moveaxis(RGB, 2, 0), HOLE), "has transparent pixels"),
    "a transparent colour": (lambda: palette(GREY, transparency=int(255 - GREY[2, 2])), "has transparent pixels"),
    "a transparent level": (
        lambda: saved(Image.fromarray(GREY), "png", transparency=int(GREY[2, 2])),
        "has transparent pixels",
    ),
    "16 bits of transparent levels": (
        lambda: png(16, 0, wide(GREY), b"tRNS\0\7"),
        "has 16 bits and a transparent grey",
    ),
    "16 bits that hold 8": (
        lambda: Image.fromarray(GREY.astype(np.uint16)),
        "at most 255, so it is black; save it wit",
    ),
    "48 bits that hold 24": (lambda: png(16, 2, wide(RGB.reshape(4, 18))), "at most 255, so it is black"),
    "floats from 0 to 1": (
        lambda: saved(Image.fromarray(GREY.astype(np.float32) / 255), "tiff"),
        "holds 32-bit floats from 0 to 1; scale them",
    ),
    "floats between levels": (
        lambda: saved(Image.fromarray(GREY.astype(np.float32) / 2), "tiff"),
        "holds 32-bit floats from 0 to 127.5; scale them to 0..255, round, and save with 8 bits",
    ),
    "no number": (lambda: saved(Image.fromarray(np.full((4, 6), np.nan, np.float32)), "tiff"), "from nan to nan"),
    "integers from 0 to 1": (
        lambda: saved(Image.fromarray((GREY > 127).astype(np.int32)), "tiff"),
        "holds 32-bit integers from 0 to 1; scale",
    ),
    "large integers": (lambda: saved(Image.fromarray(GREY * np.int32(300)), "tiff"), "integers from 0 to 76500; scale"),
    "negative integers": (lambda: saved(Image.fromarray(GREY - np.int32(128)), "tiff"), "integers from -128 to 127"),
    "a TIFF whose 0 is white": (white_is_zero, "is a TIFF whose 0 is white"),
    **{
        f"several pictures in a {kind}": (partial(several, kind), "holds several pictures; save the one that is meant")
        for kind in ("gif", "tiff", "png", "webp")
    },
}


def _text() -> PngInfo:
    text = PngInfo()
    text.add_text("Title", "[/red]")
    return text


def _write(path: Path, made: Made) -> Path:
    path.write_bytes(made if isinstance(made, bytes) else saved(made, "png"))
    return path


@pytest.mark.parametrize("name", READ)
def test_what_has_one_meaning_is_read_so(tmp_path: Path, name: str) -> None:
    make, expected = READ[name]
    found = files.read_images(_write(tmp_path / "picture", make()))
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    # One level for the way to CMYK and back, and for how Pillow rounds five levels.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= (1 if name in ("CMYK", "PGM of 5 levels") else 0)


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
