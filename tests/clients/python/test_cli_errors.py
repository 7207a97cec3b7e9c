"""How `ancestral` says what is wrong, and with which exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from ancestral.v1 import bundle_pb2, model_service_pb2
from fakeserver import FakeServer
from running import ServerProcess

Run = Callable[..., Any]  # the fixture of conftest.py


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sample", "talli", "--out", "g.png"), 3, "tally"),
        (("sample", "tally", "-n", "0", "--out", "g.png"), 2, "count: is 0"),
        (("sample", "tally", "--temperature", "nan", "--out", "g.png"), 2, "temperature: is nan"),
        (("sample", "tally", "--out", "g.gif"), 2, "g.gif: the name must end in .png or .npy or .npz"),
        (("sample", "tally", "--out", "none/g.png"), 2, "there is no folder none"),
        (("sample", "tally", "--timeout", "0", "--out", "g.png"), 2, "timeout: is 0"),
        # Who gives up first, client or server, is a matter of chance, and so are the words.
        (("sample", "tally", "-n", "9999", "--timeout", "1e-4", "--out", "g.png"), 6, "ancestral: "),
        (("encode", "tally", "none.npy", "--out", "z.npz"), 2, "none.npy: no such file"),
        (("decode", "tally", "z.npy", "--out", "g.png"), 4, "decode"),
        (("features", "tally", "images.npy", "--map", "--out", "f.npz"), 4, "features"),
        (
            ("features", "tally", "images.npy", "--map", "--out", "f.npy"),
            2,
            "--map needs --out .npz or .parquet: f.npy",
        ),
        (
            ("encode", "tally", "images.npy", "--draw-seed", "3", "--out", "a.npy"),
            2,
            "--draw-seed needs --out .npz or .parquet: a",
        ),
        (("encode", "tally", "text.npy", "--out", "z.npz"), 2, "ancestral: text.npy: is not a .npy file\n"),
        (("encode", "tally", "images.npy", "--priority", "high", "--out", "z.npz"), 2, "--priority"),
        (("sample", "tally"), 2, "--out"),
    ],
)
def test_an_error_is_told_in_words_and_in_the_exit_code(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.save(tmp_path / "z.npy", np.zeros((2, 2), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if "Usage:" not in done.stderr:
        assert done.stderr.startswith("ancestral: ")
        assert done.stderr.count("\n") == 1


def test_nothing_listens() -> None:
    """As a process of its own, as a newcomer meets it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("ancestral"), "models", "--address", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 7
    assert done.stdout == ""
    assert done.stderr == "ancestral: nothing listens at 127.0.0.1:1; start a server with: make serve\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "ipv4:127.0.0.1:1", "dns:///127.0.0.1:1"])
def test_every_form_of_an_address_is_looked_for(run: Run, address: str) -> None:
    assert run("models", "--address", address, "--timeout", "0.5").returncode in (6, 7)


def test_the_address_may_stand_before_or_after_the_command(run: Run, toy_server: ServerProcess) -> None:
    wrong = "127.0.0.1:1"
    assert run("--address", toy_server.address, "models", address=wrong).returncode == 0
    assert run("models", "--address", toy_server.address, address=wrong).returncode == 0
    assert run("--address", wrong, "models", "--address", toy_server.address, address=wrong).returncode == 0


@pytest.mark.parametrize(
    ("image", "mask", "says"),
    [
        ("missing.png", "mask.npy", "missing.png: no such file"),
        ("wide.png", "mask.npy", "wide.png: is 4×4, tally takes 4×3; --resize crop, fit or stretch makes it so"),
        ("float.npy", "mask.npy", "float.npy: must be uint8 with values 0 to 255, not float64; "),
        ("image.npy", "tall.npy", "tall.npy: has shape [5, 3], the model's images have [4, 3, 1]"),
        ("image.npy", "numbers.npy", "numbers.npy: holds int64, must be bool"),
        ("image.npy", "text.png", "text.png: not a .npy, a .npz or a picture"),
        ("image.npy", "mask.npy", "mask.npy: keeps no pixel"),
    ],
)
def test_complete_names_the_file_that_does_not_fit(run: Run, tmp_path: Path, image: str, mask: str, says: str) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "wide.png")
    np.save(tmp_path / "float.npy", np.zeros((4, 3)))
    np.save(tmp_path / "image.npy", np.zeros((4, 3), np.uint8))
    np.save(tmp_path / "mask.npy", np.zeros((4, 3), bool))
    np.save(tmp_path / "tall.npy", np.zeros((5, 3), bool))
    np.save(tmp_path / "numbers.npy", np.zeros((4, 3), np.int64))
    (tmp_path / "text.png").write_text("no picture")
    done = run("complete", "tally", image, "--mask", mask, "--out", "c.png")
    assert done.returncode == 2
    assert says in done.stderr


def test_a_stream_that_fails_leaves_no_file(run: Run, tmp_path: Path, fake_server: FakeServer) -> None:
    fake_server.stream = lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "a run failed")
    done = run("sample", "m", "--progress", "--out", "a.npz", address=fake_server.address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ancestral: INTERNAL: a run failed\n"
    assert not (tmp_path / "a.npz").exists()


def test_what_does_not_serve_completes_nothing(run: Run, fake_server: FakeServer) -> None:
    reply = model_service_pb2.GetModelResponse()
    reply.model.state = model_service_pb2.MODEL_STATE_NOT_SERVING
    reply.model.reason = "bundle.json: bad hash"
    fake_server.answer = lambda request, context: reply.SerializeToString()
    done = run("complete", "m", "i.png", "--mask", "m.png", "--out", "a.npz", address=fake_server.address)
    assert (done.returncode, done.stderr) == (7, "ancestral: m does not serve: bundle.json: bad hash\n")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("arguments", "field"), [(("score",), "score.labels"), (("features", "--out", "f.npz"), "labels")]
)
def test_who_gave_no_labels_hears_how_to_give_them(
    run: Run, fake_server: FakeServer, arguments: tuple[str, ...], field: str
) -> None:
    model = model_service_pb2.GetModelResponse()
    model.model.bundle.image.MergeFrom(bundle_pb2.ImageSpec(height=4, width=3, channels=1))
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="holds 0 classes, must hold 5")
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    refused = rpc_status.to_status(
        status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=f"{field}: holds 0 classes", details=[packed])
    )

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if fake_server.calls[-1] != "GetModel":
            context.abort_with_status(refused)
        return model.SerializeToString()

    fake_server.answer = answer
    command, *options = arguments
    done = run(command, "m", "images.npy", *options, address=fake_server.address)
    assert done.returncode == 2
    assert done.stderr.startswith("ancestral: labels: not set; the model is class-conditional: --labels CLASS"), done
    done = run(command, "m", "images.npy", *options, "--labels", "1", address=fake_server.address)
    assert done.stderr.startswith(f"ancestral: {field}: holds 0 classes"), done


def test_labels_of_a_model_without_classes_are_refused(run: Run, images: np.ndarray) -> None:
    np.save("labels.npy", np.zeros(5, np.int64))
    for arguments in (
        ("sample", "tally", "--label", "1", "--out", "a.npy"),
        ("score", "tally", "images.npy", "--labels", "1"),
        ("score", "tally", "images.npy", "--labels", "labels.npy"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert "label" in done.stderr
        assert "must be unset" in done.stderr
    done = run("score", "tally", "images.npy", "--labels", "-1")
    assert (done.returncode, done.stderr.startswith("ancestral: labels: is -1; must be 0")) == (2, True), done.stderr
    assert "none.npy: no such file" in run("score", "tally", "images.npy", "--labels", "none.npy").stderr
