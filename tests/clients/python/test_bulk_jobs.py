"""`ancestral bulk`, on the real server: every kind of input, what is wrong with it, and how it goes on."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

import toybundle
from ancestral_client import Client, Overloaded, RoleNotSupported, Unavailable
from ancestral_client.bulk_jobs import progress
from ancestral_client.bulk_jobs.job import RowProblem
from ancestral_client.bulk_jobs.servers import Elsewhere, Servers
from ancestral_client.cells import BadCell, image_of
from ancestral_client.errors import invalid
from ancestral_client.fitting import Fit
from running import PATIENT, ServerProcess
from shared import TrainedVae
from waiting import PATIENCE, until
from wire import Array, toy_images

Run = Callable[..., Any]  # the fixture of conftest.py
COMMAND = str(Path(sys.executable).with_name("ancestral"))
IMAGES = toy_images(10)
MEANS = toybundle.encode(IMAGES)
LISTS = pa.list_(pa.list_(pa.list_(pa.uint8())))


def png(image: Array) -> bytes:
    """The file of a grey picture [H,W,1], or of a coloured one [H,W,3]."""
    file = BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


PNGS = [png(image) for image in IMAGES]


def write(path: Path, images: Any = PNGS, rows: int | None = None, **columns: Any) -> Path:
    """A Parquet file with a column `image`, and others; `rows`: of a row group."""
    table = pa.table({"id": pa.array(range(len(images)), pa.int32()), "image": images, **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def read(folder: Path | str) -> Any:
    """What any reader of folders of Parquet finds there."""
    return pyarrow.dataset.dataset(folder).to_table()


def same(table: Any, means: Array) -> bool:
    """Whether its means are these: to the last bits, which depend on the batch."""
    found = np.array(table.column("mean").to_pylist(), np.float32)
    return found.shape == means.shape and np.allclose(found, means, rtol=1e-5)


# ---- what goes in


def structs(key: str, values: list[Any]) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": None, "path": None, key: value} for value in values], kind)


COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "files of pictures": lambda _: pa.array(PNGS),
    "large binary": lambda _: pa.array(PNGS, pa.large_binary()),
    "categories": lambda _: pa.array(PNGS).dictionary_encode(),
    "raw pixels": lambda _: pa.array([image.tobytes() for image in IMAGES]),
    "raw pixels of a fixed size": lambda _: pa.array([image.tobytes() for image in IMAGES], pa.binary(12)),
    "as Hugging Face has them": lambda _: structs("bytes", PNGS),
    "as Hugging Face has those of a folder": lambda names: structs("path", names),
    "paths": lambda names: pa.array(names),
    "paths from the root": lambda names: pa.array([str(Path(name).resolve()) for name in names]),
    "lists": lambda _: pa.array([image.ravel().tolist() for image in IMAGES], pa.list_(pa.uint8())),
    "lists of a fixed size": lambda _: pa.FixedSizeListArray.from_arrays(pa.array(IMAGES.ravel()), 12),
    "lists of lists": lambda _: pa.array(IMAGES.tolist(), LISTS),
    "tensors": lambda _: pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_images_of_every_kind_are_encoded_as_the_client_does(run: Run, tmp_path: Path, kind: str) -> None:
    names = [f"pictures/{i}.png" for i in range(len(IMAGES))]
    (tmp_path / "pictures").mkdir()
    for name, content in zip(names, PNGS, strict=True):
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "in.parquet", COLUMNS[kind](names), rows=4, text=[f"row {i}" for i in range(10)])
    done = run("bulk", "encode", "tally", "in.parquet", "out", "--part-rows", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote out: 10 rows in 4 files\n"
    table = read("out")
    assert table.schema.names == ["id", "text", "mean", "error"]
    assert table.schema.field("mean").type == pa.list_(pa.float32(), 2)
    assert same(table, MEANS)
    assert table.column("text").to_pylist() == [f"row {i}" for i in range(10)]
    assert table.column("error").null_count == 10


@pytest.mark.parametrize("kind", ["folder", "one picture", "npy", "npz", "floats"])
def test_pictures_and_arrays_are_rows_by_name_and_number(run: Run, tmp_path: Path, kind: str) -> None:
    names = [f"a/{i}.png" if i % 2 else f"b/_DSC{i}.PNG" for i in range(len(IMAGES))]
    for name, content in zip(names, PNGS, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    np.save(tmp_path / "in.npy", IMAGES)
    np.savez(tmp_path / "in.npz", images=IMAGES[..., 0], labels=np.arange(10))
    np.save(tmp_path / "floats.npy", IMAGES / 255)
    source, flags = {
        "folder": ("in", ()),
        "one picture": ("in/a/1.png", ()),
        "npy": ("in.npy", ()),
        "npz": ("in.npz", ()),
        "floats": ("floats.npy", ("--scale", "255")),
    }[kind]
    done = run("bulk", "encode", "tally", source, "out", "--part-rows", "4", *flags)
    assert done.returncode == 0, done.stderr
    table = read("out")
    order = (
        sorted(range(10), key=lambda i: names[i]) if kind == "folder" else [1] if kind == "one picture" else range(10)
    )
    first = "path" if kind in ("folder", "one picture") else "row"
    assert table.schema.names == [first, "mean", "error"]
    assert same(table, MEANS[list(order)])
    if kind == "folder":
        assert table.column("path").to_pylist() == sorted(names)
        assert "1 other file in IN left out" in done.stderr


def test_a_folder_of_files_is_one_input_with_the_columns_of_all(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "year=2025" / "a.parquet", PNGS[:4], more=pa.array([1, 2, 3, 4], pa.int16()))
    write(tmp_path / "in" / "year=2026" / "b.parquet", PNGS[4:])
    write(tmp_path / "in" / "year=2026" / "c.parquet", pa.array([], pa.binary()))
    (tmp_path / "in" / "_SUCCESS").touch()
    done = run("bulk", "score", "in", "out", "--json")  # the server has one model only
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["version"], said["rows"], said["files"], said["skipped"]) == ("tally", 1, 10, 2, 0)
    table = read("out")
    assert table.schema.names == ["id", "more", "year", "log_likelihood", "bits_per_dim", "error"]
    assert table.column("year").to_pylist() == [2025] * 4 + [2026] * 6
    assert table.column("more").to_pylist() == [1, 2, 3, 4] + [None] * 6
    assert np.allclose(table.column("log_likelihood").to_numpy(), -MEANS[:, 0], rtol=1e-5)


def test_columns_of_both_are_told_apart(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", mean=[0.0] * 10)
    done = run("bulk", "encode", "tally", "in.parquet", "out")
    assert done.returncode == 2
    assert "in.parquet: has a column mean already, which is one of the results; --prefix TEXT" in done.stderr
    done = run("bulk", "encode", "tally", "in.parquet", "out", "--prefix", "tally_", "--keep-images")
    assert done.returncode == 0, done.stderr
    table = read("out")
    assert table.schema.names == ["id", "image", "mean", "tally_mean", "tally_error"]
    assert table.column("image").to_pylist() == PNGS


def test_draws_are_those_of_the_row_however_rows_are_cut_and_whatever_is_skipped(
    run: Run, trained_vae: TrainedVae, tmp_path: Path
) -> None:
    images = np.random.default_rng(5).integers(0, 17, (9, 8, 8, 1), dtype=np.uint8) * 15
    cells = [image.tobytes() for image in images]
    write(tmp_path / "in.parquet", [*cells[:2], None, *cells[3:]])
    with ServerProcess(trained_vae.models, *PATIENT) as server, Client(server.address) as client:
        flags = ("--part-rows", "4", "--on-error", "skip")
        asked = ("digits-vae", "in.parquet")
        for role, own in (("encode", ("--draw-seed", "3")), ("score", ("--draws", "2", "--seed", "3"))):
            done = run("bulk", role, *asked, role, *own, *flags, address=server.address)
            assert done.returncode == 0, done.stderr
        latents = client.encode("digits-vae", images, draw_seed=3).latent
        bounds = client.score("digits-vae", images, draws=2, seed=3).log_likelihood
    assert latents is not None
    good = [0, 1, 3, 4, 5, 6, 7, 8]
    found = [read("encode").column("latent").to_pylist()[i] for i in good]
    assert np.allclose(found, latents[good], atol=1e-5)
    scored = read("score").column("log_likelihood").to_pylist()
    assert scored[2] is None
    assert np.allclose([scored[i] for i in good], bounds[good], rtol=1e-5)


# ---- rows that cannot be used

TALL = np.zeros((6, 3, 1), np.uint8)
BAD: dict[str, tuple[Any, str]] = {
    "null": (None, "is null"),
    "empty": (b"", "is empty"),
    "cut off": (PNGS[0][:50], "is a picture that cannot be read"),
    "no picture": (b"hello", "holds 5 bytes, which are no picture, nor the 12 pixels of 4×3×1"),
    "another size": (png(TALL), "is 6×3, tally takes 4×3; --resize crop, fit or stretch makes it so"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_and_is_skipped_where_asked(run: Run, tmp_path: Path, kind: str) -> None:
    cell, problem = BAD[kind]
    write(tmp_path / "in.parquet", [*PNGS[:7], cell, *PNGS[8:]], rows=3)
    asked = ("bulk", "encode", "tally", "in.parquet", "out", "--part-rows", "5", "--workers", "1")
    done = run(*asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ancestral: in.parquet: row 7, column image: " + problem)
    assert "--on-error skip goes on without such rows; 1 of 2 parts are done and kept" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run(*asked, "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 parts are done already" in done.stderr
    assert f"1 row without results, column error says why; in.parquet: row 7, column image: {problem}" in done.stderr
    table = read("out")
    assert table.column("id").to_pylist() == list(range(10))
    errors = table.column("error").to_pylist()
    assert [i for i, error in enumerate(errors) if error is not None] == [7]
    assert errors[7].startswith(problem)
    found = table.column("mean").to_pylist()
    assert found[7] is None
    assert np.allclose(np.array(found[:7] + found[8:]), np.delete(MEANS, 7, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array(["none.png"]), "names none.png, and there is no such file"),
        (pa.array(["https://example.com/a.png"]), "download it first"),
        (structs("bytes", [None]), "is null"),
        (pa.array([[1] * 12], pa.list_(pa.int64())), "must be uint8 with values 0 to 255, not int64; --scale 1 takes"),
        (pa.array([[0.5] * 12]), "must be uint8 with values 0 to 255, not double"),
        (pa.array([[1] * 11], pa.list_(pa.uint8())), "has shape [11]; tally takes [N,4,3,1], [4,3,1]"),
        (pa.array([[[1, 2], [3]]], pa.list_(pa.list_(pa.uint8()))), "holds lists of different lengths"),
        (pa.array([[None] * 12], pa.list_(pa.uint8())), "holds numbers that are null"),
        (pa.array([png(np.zeros((6, 3, 1), np.uint8))]), "is 6×3, tally takes 4×3"),
    ],
)
def test_what_is_wrong_with_a_cell_is_said_of_the_cell(run: Run, tmp_path: Path, column: Any, problem: str) -> None:
    write(tmp_path / "in.parquet", column)
    done = run("bulk", "encode", "tally", "in.parquet", "out")
    assert done.returncode == 2
    assert "in.parquet: row 0, column image: " in done.stderr
    assert problem in done.stderr.replace("float64", "double")
    assert done.stderr.count("\n") == 1


def test_channels_that_stand_first_are_told() -> None:
    with pytest.raises(BadCell, match=r"its channels stand first \(CHW\)"):
        image_of(np.zeros((3, 4, 5), np.uint8), Fit("rgb", (4, 5, 3)))


def test_pictures_are_resized_and_read_as_grey_where_asked(run: Run, tmp_path: Path) -> None:
    colour = np.zeros((8, 6, 3), np.uint8)
    colour[..., 0] = 255
    write(tmp_path / "in.parquet", [png(colour), PNGS[0]])
    done = run("bulk", "encode", "tally", "in.parquet", "out", "--resize", "stretch")
    assert done.returncode == 0, done.stderr
    assert "1 picture in colour read as grey" in done.stderr
    grey = np.full((4, 3, 1), 76, np.uint8)  # the brightness of red
    assert same(read("out"), toybundle.encode(np.stack([grey, IMAGES[0]])))


def test_a_row_that_the_model_fails_on_is_found_among_its_company(run: Run, tmp_path: Path) -> None:
    toybundle.write(tmp_path / "models", "brittle", fragile=True)
    images = IMAGES.clip(0, 254)
    images[6, 0, 0] = 255
    write(tmp_path / "in.parquet", [image.tobytes() for image in images])
    with ServerProcess(tmp_path / "models", *PATIENT) as server:
        asked = ("bulk", "encode", "brittle", "in.parquet", "out")
        done = run(*asked, address=server.address)
        assert done.returncode == 2
        assert "row 6, column image: " in done.stderr
        assert run(*asked, "--on-error", "skip", address=server.address).returncode == 0
    found = read("out").column("mean").to_pylist()
    assert [i for i, mean in enumerate(found) if mean is None] == [6]


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("encode", "tally", "none.parquet", "out"), 2, "none.parquet: no such file or folder"),
        (("encode", "tally", "text.parquet", "out"), 2, "text.parquet: is no Parquet that can be read"),
        (("encode", "tally", "in.parquet", "out", "--column", "imag"), 2, "has no column 'imag'; it has id (int32)"),
        (("encode", "tally", "in.parquet", "out", "--column", "imag"), 2, "did you mean image?"),
        (("encode", "tally", "in.parquet", "out", "--column", "id"), 2, "column 'id' is int32; images are pictures'"),
        (("encode", "tally", "two.parquet", "out"), 2, "both a and b may be it; say --column NAME"),
        (("encode", "tally", "empty.parquet", "out"), 2, "empty.parquet: has no rows"),
        (("encode", "tally", "nothing", "out"), 2, "nothing: holds no Parquet and no pictures"),
        (("encode", "tally", "mixed", "out"), 2, "mixed: holds Parquet (a.parquet) and pictures (b.png)"),
        (("encode", "tally", "wide.npy", "out"), 2, "wide.npy: each of its images is 4×9, tally takes 4×3"),
        (("encode", "tally", "wide.npy", "out", "--column", "x"), 2, "--column is for Parquet"),
        (("encode", "tally", "mixed", "mixed/out"), 2, "mixed/out: lies in mixed, which is read"),
        (("encode", "tally", "mixed/a.parquet", "mixed"), 2, "mixed: holds mixed/a.parquet, which is read"),
        (("encode", "tally", "in.parquet", "nothing"), 2, "nothing: holds other files (b.txt); give a new folder"),
        (("encode", "tally", "in.parquet", "in.npy"), 2, "in.npy: is a file; what is written is a folder"),
        (("encode", "tally", "in.parquet", "no/out"), 2, "no/out: there is no folder no"),
        (("encode", "talli", "in.parquet", "out"), 3, "tally"),
        (("encode", "tally", "in.parquet", "out", "--version", "7"), 3, "7"),
        (("features", "tally", "in.parquet", "out"), 4, "features"),
        (("classify", "in.parquet", "out"), 2, "MODEL: not set; the server has none that can classify"),
        (("encode", "tally", "in.parquet", "out", "--draws", "3"), 2, "--draws: is for score, not for encode"),
        (("score", "tally", "in.parquet", "out", "--draws", "0"), 2, "--draws: is 0"),
        (("score", "tally", "in.parquet", "out", "--labels", "y"), 2, "--labels: is 'y', which is no class and no col"),
        (("encode", "tally", "in.parquet", "out", "--draw-seed", "1"), 4, "draw_seed"),
        (("encode", "tally", "in.parquet", "out", "--workers", "0"), 2, "--workers: is 0"),
        (("encode", "tally", "in.parquet", "out", "--part-rows", "0"), 2, "--part-rows: is 0"),
        (("encode", "tally", "in.parquet", "out", "--wait", "-1"), 2, "--wait: is -1"),
        (("encode", "tally", "in.parquet", "out", "--scale", "0"), 2, "--scale: is 0.0; must be above 0"),
        (("encode", "tally", "in.parquet", "out", "--timeout", "0"), 2, "timeout: is 0"),
        (("encode", "tally", "in.parquet", "out", "--address", "127.0.0.1:1"), 7, "nothing listens at 127.0.0.1:1"),
        (("encode", "tally", "in.parquet", "out", "--address", "nowhere"), 2, "--address: is 'nowhere'"),
        (("encode", "in.parquet"), 2, "OUT"),
        (("encode", "a", "tally", "in.parquet", "out"), 2, "encode: takes [MODEL] IN OUT, not 4 of them"),
        (("encode", "in.parquet", "out", "--local", "nothing"), 2, "--local nothing: is no bundle"),
        (("paint", "tally", "in.parquet", "out"), 2, "paint"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    write(tmp_path / "in.parquet")
    write(tmp_path / "empty.parquet", pa.array([], pa.binary()))
    pq.write_table(pa.table({"a": PNGS, "b": PNGS}), tmp_path / "two.parquet")
    write(tmp_path / "mixed" / "a.parquet")
    (tmp_path / "mixed" / "b.png").write_bytes(PNGS[0])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "b.txt").touch()
    (tmp_path / "text.parquet").write_text("no Parquet")
    np.save(tmp_path / "in.npy", IMAGES)
    np.save(tmp_path / "wide.npy", np.zeros((2, 4, 9), np.uint8))
    done = run("bulk", *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    if "Usage:" not in done.stderr:
        assert done.stderr.startswith("ancestral: ")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("module", "flags"), [("pyarrow", ()), ("ray", ("--engine", "ray"))])
def test_a_missing_engine_is_named_with_the_extra_that_has_it(module: str, flags: tuple[str, ...]) -> None:
    argv = ["ancestral", "bulk", "encode", "a", "b", *flags]
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = {argv!r}\n"
        "from ancestral.commands import client; client()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ancestral: bulk needs {module}, which is not installed: pip install 'ancestral[bulk]'\n"


# ---- going on


def test_it_goes_on_with_what_is_missing_and_what_has_changed(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", PNGS[:4])
    write(tmp_path / "in" / "b.parquet", PNGS[4:])
    asked = ("bulk", "encode", "tally", "in", "out", "--part-rows", "2")
    assert run(*asked).returncode == 0
    out = tmp_path / "out"
    whole = read(out)
    assert whole.num_rows == 10

    # Nothing to do; a file that is gone, one that is cut off, and what a killed worker left.
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(*asked).returncode == 0
    (out / "part-00001.parquet").unlink()
    (out / "part-00003.parquet").write_bytes((out / "part-00003.parquet").read_bytes()[:-9])
    (out / ".partial-0123456789abcdef").write_bytes(b"half")
    done = run(*asked, "--workers", "1", "--priority", "interactive")
    assert done.returncode == 0
    assert "3 of 5 parts are done already" in done.stderr
    assert read(out).select(["id", "error"]).equals(whole.select(["id", "error"]))
    assert same(read(out), MEANS)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"_bulk.json", "part-00001.parquet", "part-00003.parquet"}

    # Other arguments are refused, with what differs; the rows stay.
    for other, said in (
        (("bulk", "score", *asked[2:]), "ROLE encode, not score"),
        ((*asked[:-1], "3"), "--part-rows 2, not 3"),
        ((*asked, "--resize", "fit", "--prefix", "x"), "--resize unset, not fit, --prefix , not x"),
    ):
        done = run(*other)
        assert done.returncode == 2
        assert f"out: was begun with {said}" in done.stderr
    assert read(out).select(["id", "error"]).equals(whole.select(["id", "error"]))
    assert same(read(out), MEANS)

    # Of an input that has changed, the parts that it changed.
    write(tmp_path / "in" / "b.parquet", PNGS[4:7])
    done = run(*asked)
    assert "2 of 4 parts are done already" in done.stderr
    assert same(read(out), MEANS[:7])


def test_two_jobs_do_not_write_to_one_folder(run: Run, tmp_path: Path) -> None:
    import fcntl

    write(tmp_path / "in.parquet")
    asked = ("bulk", "encode", "tally", "in.parquet", "out")
    assert run(*asked).returncode == 0
    folder = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    done = run(*asked)
    os.close(folder)
    assert (done.returncode, done.stderr) == (2, "ancestral: out: another job writes there now\n")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `ancestral bulk encode tally in.parquet out`, a part for each row, as a process of its own."""
    write(tmp_path / "in.parquet", pa.array([image.tobytes() for image in toy_images(60)]))
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> subprocess.Popen[str]:
        command = [COMMAND, "bulk", "encode", "tally", "in.parquet", "out", "--part-rows", "1", *flags]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        until(lambda: any((tmp_path / "out").glob("part-*")) or started[-1].poll() is not None)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_goes_on(
    run: Run, toy_server: ServerProcess, job: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int
) -> None:
    process = job("--address", toy_server.address)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    if number == signal.SIGINT and process.returncode:  # unless it was done before
        assert process.returncode == 130
        assert "of 60 parts are done and kept: the same command goes on from there" in said
    done = run("bulk", "encode", "tally", "in.parquet", "out", "--part-rows", "1")
    assert done.returncode == 0, done.stderr
    table = read(tmp_path / "out")
    assert table.column("id").to_pylist() == list(range(60))
    assert same(table, toybundle.encode(toy_images(60)))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".parquet", ".json"}


def test_a_server_that_comes_back_is_waited_for(
    toy_models: Path, job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with ServerProcess(toy_models, *PATIENT) as first:
        process = job("--address", first.address, "--wait", str(PATIENCE))
        first.stop(signal.SIGKILL)
    with ServerProcess(toy_models, *PATIENT, "--port", first.address.rpartition(":")[2]):
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    table = read(tmp_path / "out")
    assert table.column("id").to_pylist() == list(range(60))
    assert same(table, toybundle.encode(toy_images(60)))


def test_another_server_answers_for_one_that_is_away(toy_server: ServerProcess, run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet")
    gone = "127.0.0.1:1"
    both = ("--address", gone, "--address", toy_server.address)
    done = run("bulk", "encode", "tally", "in.parquet", "out", "--part-rows", "2", *both)
    assert done.returncode == 0, done.stderr
    assert f"nothing listens at {gone}" in done.stderr
    assert "the others go on without it" in done.stderr
    assert same(read("out"), MEANS)


def test_servers_that_stay_away_are_told_of(toy_server: ServerProcess) -> None:
    calls: list[str] = []

    def ask(client: Client) -> None:
        calls.append(client.address)
        raise Unavailable("away")

    clients = [Client(toy_server.address), Client("127.0.0.1:1")]
    servers = Servers([Elsewhere(client) for client in clients], 0)
    with pytest.raises(Unavailable, match="away"):
        servers.ask(ask, turn=1)
    assert calls == ["127.0.0.1:1", toy_server.address]
    servers.stop()


# ---- a server of our own


def test_a_bundle_needs_no_server(run: Run, toy_models: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet")
    asked = ("bulk", "encode", "in.parquet", "out", "--local")
    done = run(*asked, str(toy_models / "tally" / "1"), address="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert same(read("out"), MEANS)
    done = run(*asked, str(toy_models / "tally"))
    assert done.returncode == 2
    assert f"did you mean {toy_models / 'tally' / '1'}?" in done.stderr


def test_a_server_of_our_own_is_started_anew_and_ends_with_us(toy_models: Path) -> None:
    folder = toy_models / "tally" / "1"
    code = f"""
import os, signal, time
from pathlib import Path
from ancestral_client.bulk_jobs.own_server import Bundle, OwnServer
own = OwnServer(Bundle.at(Path({str(folder)!r})), 60, 1)
own.client().models()
os.kill(own._running._process.pid, signal.SIGKILL)
while own._running.alive: time.sleep(0.01)
print(own.client().models()[0].name, own._running._process.pid, flush=True)
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name, server = process.stdout.readline().split()
        assert name == "tally"
        assert Path(f"/proc/{server}").exists()
        process.kill()
    until(lambda: not _runs(int(server)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_bundle_that_is_refused_says_why(run: Run, toy_models: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet")
    folder = toybundle.write(tmp_path / "models", "wrong", scale=128.0)
    done = run("bulk", "encode", "in.parquet", "out", "--local", str(folder))
    assert done.returncode in (2, 7)
    assert "wrong" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- workers elsewhere


@pytest.mark.parametrize(
    "error",
    [
        RowProblem("in.parquet: row 7, column image: is null"),
        invalid("--labels", "is 7"),
        Overloaded("full", retry_after=3.0, request_id="7", reason="QUEUE_FULL"),
        RoleNotSupported("no", request_id="7", reason="ROLE_NOT_SUPPORTED"),
    ],
)
def test_an_error_of_another_machine_is_told_as_what_it_was(error: Exception) -> None:
    came = pickle.loads(pickle.dumps(error))
    assert (type(came), str(came), vars(came)) == (type(error), str(error), vars(error))


# ---- progress


def test_what_is_left_follows_from_what_was_done() -> None:
    assert progress.pace(0, 100, 5) == "-- rows/s"
    assert progress.pace(1000, 3600, 10) == "100 rows/s, 0:00:36 left"


def test_a_bar_counts_only_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(10, before=4) as bar:
        threads = [threading.Thread(target=bar.advance, args=(3,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert capsys.readouterr() == ("", "")
