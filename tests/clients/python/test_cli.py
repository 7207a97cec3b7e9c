"""The command `ancestral` against the real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import toybundle
from ancestral.v1 import bundle_pb2, model_service_pb2
from ancestral_client import Client, _reaching
from fakeserver import FakeServer
from running import ServerProcess

Run = Callable[..., Any]  # the fixture of conftest.py


def test_models(run: Run) -> None:
    done = run("models")
    assert done.returncode == 0, done.stderr
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["MODEL", "VERSION", "IMAGES", "CAN", "TEST", "BITS/DIM", "STATE"]
    assert row.split()[:3] == ["tally", "1", "4×3×1"]
    assert row.endswith("serving on cpu")


def test_models_as_json(run: Run) -> None:
    (model,) = json.loads(run("models", "--json").stdout)
    assert model["name"] == "tally"
    assert model["image_shape"] == [4, 3, 1]


def test_load_and_unload(run: Run, tmp_path: Path) -> None:
    models = tmp_path / "models"
    toybundle.write(models)
    with ServerProcess(models, "--poll-seconds", "0") as server:
        done = run("unload", "tally", address=server.address)
        assert (done.returncode, done.stdout) == (0, "tally at every version is unloaded\n")
        assert "until its files change or the server is started again" in done.stderr
        assert "not serving: unloaded on request" in run("models", address=server.address).stdout
        done = run("load", "tally", address=server.address)
        assert (done.returncode, done.stdout) == (0, "tally version 1 serves on cpu\n")
        (models / "tally" / "1" / "encode.onnx").write_bytes(b"")
        done = run("load", "tally", "--version", "1", address=server.address)
        assert done.returncode == 2
        assert done.stderr.startswith("ancestral: tally:1 was refused: encode.onnx: has 0 bytes")
        listed = run("models", address=server.address).stdout
        assert "serving on cpu, but what lies in its folder now was refused: encode.onnx" in listed
        assert run("load", "nobody", address=server.address).returncode == 3
        assert run("unload", "../tally", address=server.address).returncode == 2


def test_sample_writes_a_grid(run: Run, tmp_path: Path) -> None:
    done = run("sample", "tally", "-n", "16", "--seed", "7", "--out", "grid.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote grid.png: 16 images, seed 7, mean log-likelihood -")
    assert re.search(
        r"^tally version 1: .* ms in the server \(queue .*, in a batch of \d+\)$", done.stderr, re.MULTILINE
    )
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == ((4 * 4 + 1) * 16, (4 * 5 + 1) * 16)
    first = (tmp_path / "grid.png").read_bytes()
    run("sample", "tally", "-n", "16", "--seed", "7", "--out", "grid.png", "--temperature", "1")
    assert (tmp_path / "grid.png").read_bytes() == first


def test_sample_writes_arrays(run: Run, tmp_path: Path) -> None:
    assert run("sample", "tally", "-n", "4", "--seed", "7", "--out", "four.npz").returncode == 0
    assert run("sample", "tally", "-n", "2", "--seed", "7", "--first-index", "2", "--out", "two.npy").returncode == 0
    with np.load(tmp_path / "four.npz") as four:
        assert sorted(four.files) == ["images", "log_likelihood", "seed"]
        assert np.array_equal(four["images"][2:], np.load(tmp_path / "two.npy"))


def test_encode(run: Run, tmp_path: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    done = run("encode", "tally", "images.npy", "--out", "z.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "z.npz") as archive:
        assert archive.files == ["mean"]
        assert np.allclose(archive["mean"], toybundle.encode(images), atol=1e-5)


def test_encode_a_picture(run: Run, tmp_path: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "one.png")
    assert run("encode", "tally", "one.png", "--out", "z.npy").returncode == 0
    assert np.allclose(np.load(tmp_path / "z.npy"), toybundle.encode(images[:1]), atol=1e-5)


def test_score(run: Run, tmp_path: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    done = run("score", "tally", "images.npy", "--out", "scores.npz")
    assert done.returncode == 0, done.stderr
    nats = -toybundle.encode(images)[:, 0]
    assert f"{nats.mean():.2f} nats per image, 5 images (exact)" in done.stdout
    with np.load(tmp_path / "scores.npz") as archive:
        assert np.allclose(archive["log_likelihood"], nats, atol=1e-4)
    told = json.loads(run("score", "tally", "images.npy", "--json").stdout)
    assert np.allclose(told["log_likelihood"], nats, atol=1e-4)
    assert told["exact"] is True
    assert told["info"]["model"] == "tally"


def test_the_version_needs_no_server(run: Run) -> None:
    done = run("--version", address="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, f"ancestral {metadata.version('ancestral')}\n")


def test_help_lists_the_commands_and_exit_codes(run: Run) -> None:
    said = run("--help").stdout
    for word in ("models", "sample", "encode", "decode", "features", "score", "Exit codes", "does not serve now"):
        assert word in said


def test_complete_keeps_the_white_part_of_the_mask(run: Run, tmp_path: Path) -> None:
    given = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
    Image.fromarray(given).convert("RGB").save(tmp_path / "image.png")
    mask = np.zeros((4, 3), np.uint8)
    mask[1:, 0] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    done = run("complete", "tally", "image.png", "--mask", "mask.png", "-n", "5", "--seed", "2", "--out", "c.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "c.npz") as archive:
        images = archive["images"]
        assert images.shape == (5, 4, 3, 1)
        assert (images[:, 1:, 0, 0] == given[1:, 0]).all()
        assert set(np.unique(images[:, :, 1:])) <= {0, 255}
        assert archive["log_likelihood"].shape == (5,)
    # As a picture, what was kept stands first.
    assert run("complete", "tally", "image.png", "--mask", "mask.png", "-n", "5", "--out", "c.png").returncode == 0
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == ((3 * 4 + 1) * 16, (2 * 5 + 1) * 16)
        assert np.asarray(picture)[16 : 2 * 16, 16 : 2 * 16].tolist() == [[128] * 16] * 16


def test_a_bar_changes_nothing_in_the_file(run: Run, tmp_path: Path) -> None:
    plain = run("sample", "tally", "-n", "70", "--seed", "7", "--first-index", "5", "--out", "a.npz")
    bar = run("sample", "tally", "-n", "70", "--seed", "7", "--first-index", "5", "--progress", "--out", "b.npz")
    assert plain.returncode == bar.returncode == 0, bar.stderr
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert plain.stdout.replace("a.npz", "b.npz") == bar.stdout
    assert bar.stderr.count("\n") == 1, "no bar where nobody watches it"


def test_the_bar_is_gone_before_an_error_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # lets rich take the captured stderr for a terminal
    done = run("sample", "tally", "-n", "3", "--progress", "--out", "a.png")
    assert done.returncode == 0
    assert "images" in done.stderr
    assert "100%" in done.stderr
    done = run("sample", "tally", "-n", "99999", "--progress", "--out", "a.png")
    assert done.returncode == 2
    last = done.stderr.rsplit("\x1b[2K", 1)[-1]  # after the bar's line was erased
    assert last.startswith("ancestral: sample.count: is 99999, must be 1 to ")


def test_large_files_are_streamed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(3).integers(0, 256, (1000, 4, 3, 1), dtype=np.uint8)
    np.save(tmp_path / "many.npy", array)
    done = run("encode", "tally", "many.npy", "--out", "z.npz")
    assert (done.returncode, done.stdout) == (0, "wrote z.npz: 1000 × 2 latents\n"), done.stderr
    assert done.stderr.count("\n") == 1, "no bar where nobody watches it"
    with np.load(tmp_path / "z.npz") as archive:
        assert np.allclose(archive["mean"], toybundle.encode(array), atol=1e-5)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # lets rich take the captured stderr for a terminal
    done = run("score", "tally", "many.npy", "--json")
    assert np.allclose(json.loads(done.stdout)["log_likelihood"], -toybundle.encode(array)[:, 0], atol=1e-4)
    assert "100%" in done.stderr
    done = run("encode", "tally", "many.npy", "--draw-seed", "1", "--out", "y.npz")
    assert done.returncode == 4
    last = done.stderr.rsplit("\x1b[2K", 1)[-1]  # after the bar's line was erased
    assert last.startswith("ancestral: encode.draw_seed: the encoder of tally is deterministic")
    assert not (tmp_path / "y.npz").exists()


def test_models_tells_how_many_classes_there_are(run: Run, fake_server: FakeServer) -> None:
    reply = model_service_pb2.ListModelsResponse()
    bundle = reply.models.add(name="m", version=1).bundle
    bundle.image.MergeFrom(bundle_pb2.ImageSpec(height=8, width=8, channels=1))
    bundle.label_count = 10
    fake_server.answer = lambda request, context: reply.SerializeToString()
    assert "8×8×1, 10 classes" in run("models", address=fake_server.address).stdout


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ({"form": "onnx"}, "serving on cuda:0,cuda:1"),
        ({"form": "kernel", "device": "cuda:0,cuda:1"}, "; sample by its kernel on cuda:0,cuda:1"),
        # Of a server that does not tell where.
        ({"form": "kernel"}, "; sample by its kernel"),
        ({"form": "onnx", "reason": "--kernels off"}, "; sample by its graph, not by its kernel: --kernels off"),
    ],
)
def test_models_tells_what_runs_a_role_that_has_a_kernel(
    run: Run, fake_server: FakeServer, form: dict[str, str], shown: str
) -> None:
    reply = model_service_pb2.ListModelsResponse()
    serving = model_service_pb2.MODEL_STATE_SERVING
    model = reply.models.add(name="m", version=1, state=serving, device="cuda:0,cuda:1")
    model.forms.add(role="sample", **form)
    fake_server.answer = lambda request, context: reply.SerializeToString()
    told = run("models", address=fake_server.address).stdout.rstrip()
    assert told.endswith(shown)
    ((found,),) = (each["forms"] for each in json.loads(run("models", "--json", address=fake_server.address).stdout))
    assert found == {"role": "sample", "device": "", "reason": ""} | form


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("command", [("encode", "--out", "z.npz"), ("score",)], ids=["encode", "score"])
def test_bulk_stands_back_unless_it_is_told_not_to(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    asked: list[str] = []

    def client(address: str, **options: Any) -> Client:
        asked.append(options["bulk_priority"])
        return Client(address, **options)

    monkeypatch.setattr(_reaching, "Client", client)
    name, *options = command
    for priority in ([], ["--priority", "interactive"], ["--priority", "batch"]):
        done = run(name, "tally", "images.npy", *options, *priority)
        assert done.returncode == 0, done.stderr
    assert asked == ["batch", "interactive", "batch"]
