"""Where commands take images from and where they write: folders, several files, idx, Parquet, pipes."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import toybundle
from ancestral_client import items
from ancestral_client.fitting import Fit

Run = Callable[..., Any]  # the fixture of conftest.py
Array = np.ndarray[Any, np.dtype[np.uint8]]

pytestmark = pytest.mark.usefixtures("images")


def png(image: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "png")
    return file.getvalue()


def idx(array: Array) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def parquet(path: Path, **columns: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def sources(tmp_path: Path, images: Array) -> Array:
    """The same five images in files of every kind."""
    (tmp_path / "folder" / "b").mkdir(parents=True)
    for index, name in enumerate(("0.png", "1.PNG", "b/2.bmp", "b/3.png", "b/4.png")):
        Image.fromarray(images[index, ..., 0]).save(tmp_path / "folder" / name)
    (tmp_path / "folder" / "labels.csv").write_text("no picture")
    (tmp_path / "folder" / ".hidden.png").write_text("no picture")
    (tmp_path / "folder" / "around").symlink_to(tmp_path / "folder")
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(images[..., 0]))
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(images)))
    encoded = [png(image) for image in images]
    parquet(tmp_path / "plain.parquet", other=[b"x"] * 5, image=encoded)
    parquet(tmp_path / "hub.parquet", img=[{"bytes": content, "path": None} for content in encoded], label=[0] * 5)
    np.savez(tmp_path / "images.npz", images=images)
    return images


@pytest.mark.parametrize(
    "given",
    [
        ["folder"],
        ["folder/0.png", "folder/1.PNG", "folder/b"],
        ["images-idx3-ubyte"],
        ["images.gz"],
        ["plain.parquet"],
        ["hub.parquet"],
        ["images.npz"],
    ],
    ids=" ".join,
)
def test_images_come_in_files_of_every_kind(run: Run, tmp_path: Path, sources: Array, given: list[str]) -> None:
    done = run("encode", "tally", *given, "--out", "z.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "z.npz") as archive:
        assert np.allclose(archive["mean"], toybundle.encode(sources), atol=1e-5)
        if given == ["folder"]:
            assert archive["files"].tolist()[1:3] == ["folder/1.PNG", "folder/b/2.bmp"]
        if given == ["plain.parquet"]:
            assert archive["files"][4] == "plain.parquet: row 4"


@pytest.mark.parametrize("name", ["images.npz", "images.npy", "images.gz", "images-idx3-ubyte", "hub.parquet"])
def test_a_pipe_brings_any_of_them(
    run: Run, tmp_path: Path, sources: Array, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = (tmp_path / name).read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("encode", "tally", "-", "--out", "z.npy").returncode == 0
    assert np.allclose(np.load(tmp_path / "z.npy"), toybundle.encode(sources), atol=1e-5)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content[:20])))
    done = run("score", "tally", "-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("ancestral: stdin: "), done.stderr


def test_a_command_writes_into_a_pipe_what_the_next_one_reads(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(*arguments: str) -> bytes:
        pipe = io.TextIOWrapper(io.BytesIO())
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", pipe)
            done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("wrote stdout: ")
        return pipe.buffer.getvalue()

    drawn = piped("sample", "tally", "-n", "5", "--seed", "7", "--out", "-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(drawn)))
    archive = piped("encode", "tally", "-", "--out", "-", "--format", "npz")
    with np.load(io.BytesIO(archive)) as found:
        assert np.allclose(found["mean"], toybundle.encode(np.load(io.BytesIO(drawn))), atol=1e-5)
    for form in ("png", "parquet"):
        assert piped("sample", "tally", "--out", "-", "--format", form)[:4] in (b"\x89PNG", b"PAR1")


def test_results_go_to_a_folder_and_to_parquet(run: Run, tmp_path: Path, sources: Array) -> None:
    (tmp_path / "out").mkdir()
    done = run("sample", "tally", "-n", "3", "--seed", "7", "--first-index", "5", "--out", "out")
    assert (done.returncode, done.stdout[:18]) == (0, "wrote out: 3 image"), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000005.png", "000006.png", "000007.png"]
    assert run("sample", "tally", "-n", "3", "--seed", "7", "--first-index", "5", "--out", "s.parquet").returncode == 0
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pydict()
    assert table["seed"] == [7] * 3
    assert len(table["log_likelihood"]) == 3
    with Image.open(io.BytesIO(table["image"][2])) as image, Image.open(tmp_path / "out" / "000007.png") as other:
        assert image.size == other.size == (3, 4)
        assert np.array_equal(np.asarray(image), np.asarray(other))
    assert run("encode", "tally", "s.parquet", "folder", "--out", "z.parquet").returncode == 0
    encoded = pyarrow.parquet.read_table(tmp_path / "z.parquet")
    assert str(encoded.schema.field("mean").type).startswith("fixed_size_list<")
    assert encoded["file"].to_pylist()[3] == "folder/0.png"
    assert np.allclose(np.stack(encoded["mean"].to_pylist())[3:], toybundle.encode(sources), atol=1e-5)


def test_every_command_tells_programs_in_json(run: Run, sources: Array) -> None:
    told = json.loads(run("encode", "tally", "folder", "--json", "--out", "z.npy").stdout)
    assert (told["out"], told["images"], told["left_out"], told["latents"]) == ("z.npy", 5, 0, 2)
    assert told["info"]["model"] == "tally"
    told = json.loads(run("sample", "tally", "-n", "2", "--seed", "7", "--json", "--out", "a.png").stdout)
    assert (told["images"], told["seed"], len(told["log_likelihood"])) == (2, 7, 2)
    told = json.loads(run("score", "tally", "folder", "--json").stdout)
    assert np.allclose(told["log_likelihood"], -toybundle.encode(sources)[:, 0], atol=1e-4)
    assert told["files"][0] == "folder/0.png"


def test_one_bad_image_is_named_and_may_be_left_out(run: Run, tmp_path: Path, sources: Array) -> None:
    folder = tmp_path / "folder"
    (folder / "1.PNG").write_bytes(png(sources[1])[:-30])
    Image.new("L", (5, 5)).save(folder / "b" / "3.png")
    np.save(tmp_path / "labels.npy", np.arange(5))
    done = run("encode", "tally", "folder", "--out", "z.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ancestral: folder/1.PNG: cannot be read: ")
    assert done.stderr.endswith("; --on-error skip goes on without it\n")
    assert not (tmp_path / "z.npz").exists()
    done = run("encode", "tally", "folder", "--on-error", "skip", "--out", "z.npz")
    assert done.returncode == 0, done.stderr
    assert "ancestral: left out: folder/1.PNG: cannot be read: " in done.stderr
    assert (
        "ancestral: left out: folder/b/3.png: is 5×5, tally takes 4×3; --resize crop, fit or stretch makes it so"
        in done.stderr
    )
    assert "ancestral: 2 of 5 images are left out\n" in done.stderr
    with np.load(tmp_path / "z.npz") as archive:
        assert archive["files"].tolist() == ["folder/0.png", "folder/b/2.bmp", "folder/b/4.png"]
        assert np.allclose(archive["mean"], toybundle.encode(sources[[0, 2, 4]]), atol=1e-5)
    told = json.loads(run("score", "tally", "folder", "--on-error", "skip", "--json").stdout)
    assert len(told["log_likelihood"]) == 3
    parquet(tmp_path / "bad.parquet", image=[png(sources[0]), None, b"no picture", png(sources[3])])
    done = run("encode", "tally", "bad.parquet", "--on-error", "skip", "--out", "z.npy")
    assert done.returncode == 0
    assert "left out: bad.parquet: row 1: holds no picture" in done.stderr
    assert "left out: bad.parquet: row 2: not a picture" in done.stderr
    assert np.allclose(np.load(tmp_path / "z.npy"), toybundle.encode(sources[[0, 3]]), atol=1e-5)


def test_labels_follow_the_images_that_are_kept(images: Array, tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(png(images[index])[: 20 if index == 1 else None])
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    read = items.read(paths, Fit("m", (4, 3, 1)), skip=True)
    assert read.of_kept([7, 8, 9, 10]).tolist() == [7, 9, 10]
    assert read.of_kept(5) == 5
    assert read.of_kept([1, 2]).tolist() == [1, 2], "a wrong number of labels is the server's to refuse"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("encode", "tally", "empty", "--out", "z.npy"), "empty: holds no picture (.bmp, .gif"),
        (("encode", "tally", "none", "folder", "--out", "z.npy"), "none: no such file"),
        (("encode", "tally", "-", "-", "--out", "z.npy"), "-: stands for stdin, which can be read once only"),
        (("encode", "tally", "chw.npy", "--out", "z.npy"), "chw.npy: has shape [2, 1, 4, 3]; tally takes [N,4,3,1]"),
        (("encode", "tally", "nothing.npy", "--out", "z.npy"), "nothing.npy: has shape [0, 4, 3, 1]: no image in it"),
        (("encode", "tally", "cut.gz", "--out", "z.npy"), "cut.gz: is cut off or damaged: its header speaks of 60"),
        (("encode", "tally", "long-idx3-ubyte", "--out", "z.npy"), "is cut off or damaged: its header speaks of 60 by"),
        (("encode", "tally", "text.parquet", "--out", "z.npy"), "text.parquet: is not Parquet: "),
        (
            ("encode", "tally", "numbers.parquet", "--out", "z.npy"),
            "has no column of encoded pictures (bytes, or a str",
        ),
        (("encode", "tally", "broken", "--on-error", "skip", "--out", "z.npy"), "broken: none of 1 images can be used"),
        (("encode", "tally", "images.npy", "--out", "z.npy", "--format", "npz"), "--format is for --out -; z.npy"),
        (("encode", "tally", "images.npy", "--out", "-", "--format", "png"), "--format: is 'png'; must be one of npz"),
        (("encode", "tally", "images.npy", "--out", "-", "--json"), "--json: is printed on stdout, where --out -"),
        (("encode", "tally", "images.npy", "--out", "folder"), "folder: the name must end in .npz or .npy or .parquet"),
        (
            ("sample", "tally", "--out", "none/"),
            "none: the name must end in .png or .npy or .npz or .parquet or be a f",
        ),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_read_or_written_is_one_line(
    run: Run, tmp_path: Path, sources: Array, arguments: tuple[str, ...], said: str
) -> None:
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(idx(sources))[:-20])
    (tmp_path / "long-idx3-ubyte").write_bytes(idx(sources[..., 0]) + b"x")
    np.save(tmp_path / "chw.npy", np.zeros((2, 1, 4, 3), np.uint8))
    np.save(tmp_path / "nothing.npy", np.zeros((0, 4, 3, 1), np.uint8))
    parquet(tmp_path / "numbers.parquet", image=[1, 2])
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("ancestral: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_channels_that_stand_first_are_told_of(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "chw.npy", np.zeros((2, 1, 4, 3), np.uint8))
    assert "its channels stand first (CHW): move them last" in run("score", "tally", "chw.npy").stderr


def test_shells_complete_commands_and_the_names_of_models(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_ANCESTRAL_COMPLETE", "complete_bash")

    def completed(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return str(run().stdout).split()

    assert {"encode", "reconstruct", "doctor", "bench"} <= set(completed("ancestral "))
    assert completed("ancestral recon") == ["reconstruct"]
    assert completed("ancestral encode ta") == ["tally"]
    assert completed("ancestral encode --address 127.0.0.1:1 ta") == []


def test_numbers_are_scaled_where_asked_and_a_role_is_missed_before_images_are_read(run: Run, sources: Array) -> None:
    np.save("numbers.npy", sources / 255)
    assert "--scale 255 for images in [0,1]" in run("encode", "tally", "numbers.npy", "--out", "z.npy").stderr
    done = run("encode", "tally", "numbers.npy", "--scale", "255", "--out", "z.npy")
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.load("z.npy"), toybundle.encode(sources), atol=1e-5)
    done = run("encode", "tally", "numbers.npy", "--scale", "-1", "--out", "z.npy")
    assert done.stderr.startswith("ancestral: --scale: is -1.0; must be above 0")
    Path("broken.png").write_text("no picture")
    done = run("features", "tally", "broken.png", "--out", "f.npz")
    assert (done.returncode, "has no role 'features'; it has encode, sample, score" in done.stderr) == (4, True)
    Path("empty.png").touch()
    assert run("score", "tally", "empty.png").stderr == "ancestral: empty.png: is empty\n"


def test_images_of_another_size_are_resized_where_asked(run: Run, tmp_path: Path, sources: Array) -> None:
    large = sources.repeat(2, 1).repeat(2, 2)
    (tmp_path / "large").mkdir()
    for index, image in enumerate(large):
        Image.fromarray(image[..., 0]).save(tmp_path / "large" / f"{index}.png")
    np.save(tmp_path / "large.npy", large)
    expected = toybundle.encode(Fit("tally", (4, 3, 1), "crop").images(large))
    for given in ("large", "large.npy"):
        assert "--resize crop, fit or stretch makes it so" in run("encode", "tally", given, "--out", "z.npy").stderr
        done = run("encode", "tally", given, "--resize", "crop", "--out", "z.npy")
        assert done.returncode == 0, done.stderr
        assert np.allclose(np.load(tmp_path / "z.npy"), expected, atol=1e-5)
    np.save(tmp_path / "top.npy", np.repeat([True, False], 4)[:, None].repeat(6, 1))
    assert "8×6" in run("complete", "tally", "large/0.png", "--mask", "top.npy", "--out", "c.npy").stderr
    done = run("complete", "tally", "large/0.png", "--mask", "top.npy", "--resize", "stretch", "--out", "c.npy")
    assert done.returncode == 0, done.stderr
    kept = Fit("tally", (4, 3, 1), "stretch").images(large[0])[0, :2]
    assert (np.load(tmp_path / "c.npy")[:, :2] == kept).all()
