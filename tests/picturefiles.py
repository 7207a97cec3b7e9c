"""Files of pictures of every kind: what each is read as, or what is said of it, by a training and by a client."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

GREY = np.random.default_rng(5).integers(2, 256, (4, 6), dtype=np.uint8)
GREY[0, :2] = 0, 255
RGB = np.random.default_rng(6).integers(0, 256, (4, 6, 3), dtype=np.uint8)
BLACK_AND_WHITE = np.where(GREY > 127, np.uint8(255), np.uint8(0))
OPAQUE = np.full((4, 6), 255, np.uint8)
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


def tiff_of_12_bits(row: list[int]) -> bytes:
    """A grey picture of one row, as scanners write it."""
    data = int("".join(f"{value:012b}" for value in row), 2).to_bytes(len(row) * 12 // 8, "big")
    # Width, height, bits, no compression, black is 0, where the data begin, samples, rows a strip, bytes a strip.
    tags = {256: len(row), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def wide_colour(colour: np.ndarray) -> bytes:
    """A colour of PNG's chunk tRNS, as that picture has it in 16 bits."""
    return (colour.astype(np.uint16) * 256 + 7).astype(">u2").tobytes()


def on_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [H,W,3] of so much opacity [H,W], 0 to 255, before a white ground."""
    opacity = alpha[..., np.newaxis] / 255
    return np.rint(levels * opacity + 255 * (1 - opacity))


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
    "a digit drawn in alpha": (lambda: merge("LA", np.zeros_like(GREY), GREY), 255 - GREY),
    "transparent colours": (lambda: merge("RGBA", *np.moveaxis(RGB, 2, 0), GREY), on_white(RGB, GREY)),
    "a transparent colour of a palette": (
        lambda: palette(GREY, transparency=int(255 - GREY[2, 2])),
        on_white(REPEATED, np.where(GREY[2, 2] == GREY, 0, 255)),
    ),
    "a transparent level": (
        lambda: saved(Image.fromarray(GREY), "png", transparency=int(GREY[2, 2])),
        np.where(GREY[2, 2] == GREY, 255, GREY),
    ),
    "a transparent level of 16 bits": (
        lambda: png(16, 0, wide(GREY.astype(np.uint16) * 257), b"tRNS" + bytes([GREY[2, 2]] * 2)),
        np.where(GREY[2, 2] == GREY, 255, GREY),
    ),
    "a transparent colour of 48 bits": (
        lambda: png(16, 2, wide(RGB.reshape(4, 18).astype(np.uint16) * 256 + 7), b"tRNS" + wide_colour(RGB[1, 1])),
        on_white(RGB, np.where((RGB[1, 1] == RGB).all(axis=2), 0, 255)),
    ),
    "CMYK": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "tiff"), RGB),
    "16 bits": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "16 bits, rounded": (
        lambda: Image.fromarray(np.array([[0, 128, 129, 385, 386, 65535]], np.uint16)),
        np.array([[0, 0, 1, 1, 2, 255]]),
    ),
    "12 bits": (lambda: tiff_of_12_bits([0, 16, 2048, 4095]), np.array([[0, 1, 128, 255]])),
    "12 bits, dark": (lambda: tiff_of_12_bits([0, 16, 24, 25]), np.array([[0, 1, 1, 2]])),
    "a TIFF of 16 bits whose 0 is white": (white_is_zero, 255 - GREY),
    "16 bits, all black": (lambda: Image.fromarray(np.zeros((4, 6), np.uint16)), np.zeros((4, 6))),
    "16 bits, big-endian TIFF": (
        lambda: saved(Image.frombytes("I;16B", (6, 4), b"".join(wide(GREY * np.uint16(257)))), "tiff"),
        GREY,
    ),
    "48 bits": (lambda: png(16, 2, wide(RGB.reshape(4, 18).astype(np.uint16) * 257)), RGB),
    "PGM of 16 bits": (lambda: b"P5 6 4 65535\n" + b"".join(wide(GREY.astype(np.uint16) * 257)), GREY),
    "PGM of 5 levels": (lambda: b"P2 6 1 4\n0 1 2 3 4 4", np.array([[0, 64, 128, 191, 255, 255]])),
    "integers of 32 bits": (lambda: saved(Image.fromarray(GREY.astype(np.int32)), "tiff"), GREY),
    "integers of 32 bits that have 16": (lambda: saved(Image.fromarray(GREY * np.int32(257)), "tiff"), GREY),
    "floats that are levels": (lambda: saved(Image.fromarray(GREY.astype(np.float32)), "tiff"), GREY),
    "a colour profile": (
        lambda: saved(
            Image.fromarray(RGB), "png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        RGB,
    ),
    "a camera upside down": (lambda: turned(3), GREY[::-1, ::-1]),
    "a mirror": (lambda: turned(2), GREY[:, ::-1]),
    "a TIFF upside down": (lambda: saved(Image.fromarray(GREY), "tiff", tiffinfo={274: 3}), GREY[::-1, ::-1]),
    "text beside it": (lambda: saved(Image.fromarray(GREY), "png", pnginfo=_text()), GREY),
}

REFUSED: dict[str, tuple[Callable[[], Made], str]] = {
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
    "floats whose 0 is white": (
        lambda: saved(Image.fromarray(GREY.astype(np.float32)), "tiff", tiffinfo={262: 0}),
        "is a TIFF of 32 bits whose 0 is white",
    ),
    **{
        f"several pictures in a {kind}": (partial(several, kind), "holds several pictures; save the one that is meant")
        for kind in ("gif", "tiff", "png", "webp")
    },
}


def _text() -> PngInfo:
    text = PngInfo()
    text.add_text("Title", "[/red]")
    return text
