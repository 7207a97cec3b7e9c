"""Whatever is wrong with a file that is read: one line with its name, and exit code 2."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ancestral_client import files
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem

Run = Callable[..., Any]  # the fixture of conftest.py

IMAGES = np.zeros((5, 4, 3, 1), np.uint8)


def npy(array: np.ndarray = IMAGES, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_that_claims(shape: str, dtype: str = "|u1") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 60


def npz(content: bytes = b"", packing: int = zipfile.ZIP_DEFLATED, name: str = "images.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        archive.writestr(name, content or npy())
    return file.getvalue()


def two() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=IMAGES, b=IMAGES)
    return file.getvalue()


def encrypted() -> bytes:
    """An archive whose member says that it is encrypted."""
    return header_with(6, 1)


def header_with(place: int, value: int) -> bytes:
    """An archive with a byte of its member's header, there and in the directory, another."""
    packed = bytearray(npz())
    packed[place] = value
    packed[packed.index(b"PK\x01\x02") + place + 2] = value
    return bytes(packed)


def damaged() -> bytes:
    packed = bytearray(npz(npy(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))))
    packed[1000:1100] = b"\0" * 100
    return bytes(packed)


def packed_bomb() -> bytes:
    """An archive that says that it holds 4 GiB in a few bytes."""
    packed = bytearray(npz())
    entry = packed.index(b"PK\x01\x02")
    packed[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    return bytes(packed)


def picture_bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def picture(cut: int = 0, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(file, kind)
    return file.getvalue()[: -cut or None]


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.npy": (b"", "is empty"),
    "empty.npz": (b"", "is empty"),
    "empty.png": (b"", "is empty"),
    "text.npy": (b"no array", "is not a .npy file"),
    "array.npz": (npy(), "is not a .npz file"),
    "header.npy": (npy()[:20], "cannot be read: "),
    "nonsense.npy": (npy_that_claims("(("), "cannot be read: "),
    "letters.npy": (npy_that_claims("'five'"), "cannot be read: "),
    "negative.npy": (npy_that_claims("(-5,)"), "is cut off or damaged"),
    "future.npy": (b"\x93NUMPY\x09\x09" + npy()[8:], "cannot be read: "),
    "long.npy": (npy_that_claims("(1,)" + " " * 20_000), "cannot be read: "),
    "cut.npy": (npy()[:-1], "is cut off or damaged: its header speaks of 60 bytes, it holds 59"),
    "huge.npy": (npy_that_claims("(1000000000000,)"), "its header speaks of 1000000000000 bytes, it holds 60"),
    "endless.npy": (npy_that_claims(f"({10**30},)", "<f8"), "is cut off or damaged"),
    "objects.npy": (npy(np.array([{}], object), allow_pickle=True), "holds Python objects, which could run code"),
    "numbers.npy": (npy(IMAGES.astype(int)), "holds int64, must be uint8 with values 0 to 255; scale, round, and con"),
    "floats.npy": (npy(IMAGES / 255), "holds float64, must be uint8"),
    "text.npz": (b"no archive", "is not a .npz file"),
    "cut.npz": (npz()[:-30], "is not a .npz file"),
    "damaged.npz": (damaged(), "cannot be read: "),
    "encrypted.npz": (encrypted(), " is encrypted; save it without a password"),
    "packing.npz": (header_with(8, 99), "cannot be read: "),
    "bomb.npz": (packed_bomb(), "would take 4294967294 bytes of memory, packed into"),
    "huge.npz": (npz(npy_that_claims("(1000000000000,)")), "its header speaks of 1000000000000 bytes, it holds 60"),
    "objects.npz": (npz(npy(np.array([{}], object), allow_pickle=True)), "holds Python objects"),
    "letter.npz": (npz(b"hello", name="readme.txt"), "cannot be read: "),
    "nothing.npz": (b"PK\x05\x06" + b"\0" * 18, "holds nothing; expected one array, or one of images"),
    "two.npz": (two(), "holds a, b; expected one array, or one of images, image, x"),
    "text.png": (b"no picture", "not a .npy, a .npz or a picture"),
    "cut.png": (picture(40), "cannot be read: "),
    "cut.jpg": (picture(400, "jpeg"), "cannot be read: image file is truncated"),
    "cut.tiff": (picture(400, "tiff"), "cannot be read: "),
    "bomb.png": (picture_bomb(), "exceeds limit of 178956970 pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_with_its_name(tmp_path: Path, name: str) -> None:
    content, said = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileProblem) as caught:
        files.read_images(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ": (" not in str(caught.value)  # a tuple of an exception is no sentence


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".tiff", ".gif", ".jpeg", ".webp", ".bmp", ".pgm"])
def test_no_byte_of_a_file_can_break_more_than_the_file(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, or with any byte another: it is read, or it is a FileProblem."""
    kind = {".npy": npy(), ".npz": npz()}.get(suffix) or picture(kind=suffix[1:].replace("pgm", "ppm"))
    random = np.random.default_rng(2)
    path = tmp_path / f"broken{suffix}"
    problems = 0
    for cut in (True, False):
        for place in random.integers(0, min(len(kind), 400), 60):
            broken = bytearray(kind[:place] if cut else kind)
            if not cut:
                broken[place] ^= int(random.integers(1, 256))
            path.write_bytes(broken)
            try:
                files.read_images(path)
            except FileProblem:
                problems += 1
    assert problems > 30


@pytest.mark.parametrize(
    "name", ["folder", "folder.npy", "pipe", "pipe.npz", "device", "device.npy", "none", "none.npy"]
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, name: str) -> None:
    """Reading from a pipe would wait for ever, and from /dev/zero fill the memory."""
    path = tmp_path / name
    match path.stem:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
    said = {"folder": "is a folder", "pipe": "is a pipe or a device", "device": "is a pipe or", "none": "no such file"}
    for read in (files.read_images, lambda path: files.read_array(path, ())):
        with pytest.raises(FileProblem, match=f"{name}: {said[path.stem]}"):
            read(path)


def test_a_file_inside_a_file_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    with pytest.raises(FileProblem, match=r"b\.npy: cannot be read: Not a directory"):
        files.read_images(tmp_path / "a.png" / "b.npy")


def test_endings_may_be_large_letters(tmp_path: Path) -> None:
    images = np.arange(12, dtype=np.uint8).reshape(1, 4, 3, 1)
    (tmp_path / "A.NPY").write_bytes(npy(images))
    (tmp_path / "A.NpZ").write_bytes(npz(npy(images)))
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "A.PNG")
    for name in ("A.NPY", "A.NpZ", "A.PNG"):
        assert np.array_equal(files.read_image(tmp_path / name, Fit("toy", (4, 3, 1)))[0], images[0])
    files.check_target(tmp_path / "B.NPY", ".npy")
    files.write_images(tmp_path / "B.NPZ", images, {})
    assert np.array_equal(files.read_images(tmp_path / "B.NPZ"), images)


@pytest.mark.parametrize(
    "command",
    [
        ("encode", "tally", "FILE", "--out", "z.npz"),
        ("score", "tally", "FILE"),
        ("decode", "tally", "FILE", "--out", "d.npz"),
        ("complete", "tally", "FILE", "--mask", "mask.npy", "--out", "c.npz"),
        ("complete", "tally", "image.npy", "--mask", "FILE", "--out", "c.npz"),
        ("score", "tally", "image.npy", "--labels", "FILE"),
    ],
    ids=lambda command: "-".join(command[:4]),
)
def test_every_command_tells_of_a_broken_file(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    np.save(tmp_path / "image.npy", IMAGES[0])
    np.save(tmp_path / "mask.npy", np.eye(4, 3, dtype=bool))
    for name in ("damaged.npz", "objects.npy", "huge.npy"):
        (tmp_path / name).write_bytes(BROKEN[name][0])
        done = run(*(name if argument == "FILE" else argument for argument in command))
        assert (done.returncode, done.stdout) == (2, ""), done
        assert done.stderr.startswith(f"ancestral: {name}: "), done
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["cats", "1.5", "labels.txt", ""])
def test_labels_are_a_class_or_a_file_of_them(run: Run, tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "image.npy", IMAGES[0])
    done = run("score", "tally", "image.npy", "--labels", text)
    assert done.returncode == 2
    assert done.stderr == (
        f"ancestral: --labels: is {text!r}; must be a class (a whole number), or a .npy, .npz or idx file of them\n"
    )


def test_every_command_reads_pictures_alike(run: Run, tmp_path: Path) -> None:
    """What `complete` takes, `encode`, `score` and the others take: here a palette for a model in grey."""
    grey = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    Image.fromarray(grey).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert run("encode", "tally", "p.png", "--out", "a.npy").returncode == 0
    assert run("encode", "tally", "grey.npy", "--out", "b.npy").returncode == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert run("score", "tally", "p.png").stdout == run("score", "tally", "grey.npy").stdout
    alpha = Image.fromarray(np.zeros((4, 3), np.uint8))
    alpha.putalpha(Image.fromarray(grey))
    alpha.save(tmp_path / "alpha.png")
    np.save(tmp_path / "white.npy", 255 - grey)  # black in alpha, on the white ground that trainings have
    assert run("score", "tally", "alpha.png").stdout == run("score", "tally", "white.npy").stdout
    done = run("complete", "tally", "alpha.png", "--mask", "alpha.png", "--out", "c.npy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("ancestral: alpha.png: has transparent pixels; flatten it: white keeps"), done
