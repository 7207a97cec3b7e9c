"""The command: a small training from end to end, what it prints, and its errors.

One training runs as a user runs it; the rest calls the entry point, which saves the seconds that torch takes to import.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

from ancestral.v1 import bundle_pb2
from ancestral_exporter.cli import main
from shared import TrainedVae

# A net that is exported in a second.
SMALL = [f"--set=model.{it}" for it in ("channels=8", "vertical_layers=1", "horizontal_layers=1")]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: `run("verify", bundle)`."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["ancestral-exporter", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        return Done(code if isinstance(code, int) else int(bool(code)), *capsys.readouterr())

    return call


def manifest_of(bundle: Path) -> bundle_pb2.Bundle:
    return json_format.Parse((bundle / "bundle.json").read_text(), bundle_pb2.Bundle())


def test_train_prints_the_figures_and_the_path(trained_vae: TrainedVae) -> None:
    assert trained_vae.stderr == ""
    assert "epoch 2/2" in trained_vae.stdout
    assert "uniform over 17 levels" in trained_vae.stdout
    assert "447 test images, upper bound (negative ELBO)" in trained_vae.stdout
    assert "wrote models/digits-vae/1" in trained_vae.stdout


def test_bundle_has_everything(trained_vae: TrainedVae) -> None:
    models = trained_vae.models
    bundle = models / "digits-vae" / "1"
    manifest = manifest_of(bundle)
    assert {role.name for role in manifest.roles} == {"encode", "decode", "sample", "score", "features"}
    metrics = {(metric.name, metric.split): metric for metric in manifest.metrics}
    test = metrics["bits_per_dim", "test"]
    assert 1.5 < test.value < 4.0875
    assert test.likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND
    nats = metrics["negative_log_likelihood", "test"]
    assert nats.value == pytest.approx(test.value * 64 * np.log(2))
    assert manifest.provenance["seed"] == "3"
    assert json.loads(manifest.provenance["settings"])["schedule"]["epochs"] == 2
    card = (bundle / "CARD.md").read_text()
    for text in (f"{test.value:.4f}", f"{nats.value:.2f}", "first 1000 train", "bound", "Seed 3", "parameters"):
        assert text in card
    for text in ("test, the first 250 images", "importance-weighted, k = 50", "of 24 are active"):
        assert text in card
    with (bundle / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["epoch"] == "2"
    for name in ("samples.png", "training.png"):
        with Image.open(bundle / name) as picture:
            assert min(picture.size) > 300
    assert {file.path for file in manifest.files} >= {"CARD.md", "metrics.csv", "samples.png", "training.png"}
    # Nothing but the bundle is left, and nothing that a server could take for a model.
    assert sorted(path.name for path in models.iterdir() if not path.name.startswith(".")) == ["digits-vae"]
    assert not (models / ".training" / "digits-vae").exists()


def test_verify(trained_vae: TrainedVae, tmp_path: Path, run: Callable[..., Done]) -> None:
    good = run("verify", trained_vae.models / "digits-vae" / "1")
    assert good.returncode == 0
    assert "verified" in good.stdout
    missing = run("verify", tmp_path / "nothing")
    assert missing.returncode == 1
    assert missing.stderr == f"ancestral-exporter: {tmp_path / 'nothing'}: no such folder\n"
    for version in ("1", "2", "10"):
        (tmp_path / "model" / version).mkdir(parents=True)
        (tmp_path / "model" / version / "bundle.json").touch()
    model = run("verify", tmp_path / "model")
    assert model.returncode == 1
    assert model.stderr.endswith("model: is a model, not one of its versions; there are versions: 1, 2, 10\n")


def test_untrained_bundles_need_no_data(tmp_path: Path, run: Callable[..., Done]) -> None:
    done = run("train", "mnist-pixelcnn", "--models", tmp_path, "--epochs", 0, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Untrained" in (tmp_path / "mnist-pixelcnn" / "1" / "CARD.md").read_text()
    assert not manifest_of(tmp_path / "mnist-pixelcnn" / "1").metrics


def test_versions_count_up_and_a_density_has_no_bits_per_dim(
    trained_vae: TrainedVae, tmp_path: Path, run: Callable[..., Done]
) -> None:
    models = Path(shutil.copytree(trained_vae.models, tmp_path / "models"))
    done = run("train", "digits-vae", "--models", models, "--epochs", 1, "--likelihood", "gaussian")
    assert done.returncode == 0, done.stderr
    assert f"wrote {models / 'digits-vae' / '2'}" in done.stdout
    assert "density" in done.stdout
    manifest = manifest_of(models / "digits-vae" / "2")
    assert manifest.version == 2
    names = {metric.name for metric in manifest.metrics}
    assert "negative_log_density" in names
    assert "bits_per_dim" not in names


def test_recipes(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("recipes")
    assert done.returncode == 0
    for name in ("digits-vae", "digits-pixelcnn-conditional", "tiles-pixelcnn", "mnist-vae", "mnist-pixelcnn"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["digits-gam"],
            2,
            "unknown recipe 'digits-gam' (did you mean 'digits-gan'?); there are: digits-autoencoder, d",
        ),
        (["digits-vae", "--epochs", "-1"], 2, "[schedule] epochs = -1: Input should be greater than or equal to 0"),
        (["digits-vae", "--likelihood", "bernoulli"], 2, "2 levels, not 17"),
        (["digits-pixelcnn", "--likelihood", "gaussian"], 2, "[model] likelihood = 'gaussian': Input should be 'cat"),
        (["digits-vae", "--devices", "some"], 2, "--devices must be auto or a number from 1, not 'some'"),
        (["digits-vae", "--data", "/nowhere"], 2, "--data has no effect on digits-vae: its data, the digits, are incl"),
        (["tiles-pixelcnn", "--data=.", "--epochs", "0"], 2, "--data has no effect on tiles-pixelcnn"),
        (["mnist-vae", "--epochs", "0", "--precision", "32"], 2, "--precision has no effect with 0 epochs"),
        (["digits-pixelcnn", "--epochs", "0", "--devices", "2"], 2, "--devices has no effect with 0 epochs"),
        (["mnist-vae"], 1, "pass --data DIR"),
        (["mnist-vae", "--data", "/nowhere"], 1, "/nowhere/train-images-idx3-ubyte: no such file"),
        (["mnist-vae", "--data", "/nowhere", "--epochs", "0"], 1, "/nowhere/train-images-idx3-ubyte: no such file"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, arguments: list[str], code: int, message: str, run: Callable[..., Done]
) -> None:
    done = run("train", *arguments, "--models", tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ancestral-exporter: ")


def test_models_folder_that_is_a_file(tmp_path: Path, run: Callable[..., Done]) -> None:
    (tmp_path / "models").write_text("")
    done = run("train", "digits-vae", "--epochs", 0, "--models", tmp_path / "models")
    assert done.returncode == 1
    assert f"{tmp_path / 'models'}: cannot write there" in done.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "can't allocate"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "Tried to allocate 2 GiB"),
    ],
)
def test_memory_that_is_not_there_is_told_in_one_line(
    error: Exception, told: str, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is refused it: Python, numpy, torch on a CPU or on a GPU. Really asked for, it might be had."""

    def refused() -> None:
        raise error

    monkeypatch.setattr("ancestral_exporter.recipes.shipped", refused)
    done = run("recipes")
    assert done.returncode == 1
    assert done.stderr.startswith("ancestral-exporter: there is not enough memory for this: ")
    assert told in done.stderr
    assert done.stderr.endswith("; try a smaller net, batch or image size\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_trained_on(
    tmp_path: Path, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    # Stops where the data are missed, after the lock was asked for.
    done = run("train", "mnist-vae", "--models", tmp_path)
    assert "pass --data DIR" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "locks" in line]
    assert f"has no file locks ({os.strerror(number)}): going on without" in line


def test_promote(trained_vae: TrainedVae, tmp_path: Path, run: Callable[..., Done]) -> None:
    source = trained_vae.models / "digits-vae" / "1"
    done = run("promote", source, tmp_path / "models", "--as", "small", "--version", 3)
    assert done.returncode == 0, done.stderr
    place = tmp_path / "models" / "small" / "3"
    assert done.stdout == f"promoted {source} to {place}\n"
    assert run("verify", place).returncode == 0
    again = run("promote", source, tmp_path / "models", "--as", "small", "--version", 3)
    assert (again.returncode, again.stdout) == (0, f"{source} is already {place}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as", "a/b"], "model name 'a/b' does not match"),
        (["--version", "0"], "version must be 1 to 9223372036854775807, not 0"),
        (["--version", "-1"], "--version must be a whole number from 1 to 9223372036854775807, not '-1'"),
        (["--version", "two"], "--version must be a whole number from 1 to 9223372036854775807, not 'two'"),
        (["--version", "9" * 5000], "--version must be a whole number from 1 to 9223372036854775807, not '9999"),
    ],
)
def test_promote_refuses_in_one_line(
    trained_vae: TrainedVae, tmp_path: Path, run: Callable[..., Done], options: list[str], message: str
) -> None:
    source = trained_vae.models / "digits-vae" / "1"
    done = run("promote", source, tmp_path / "models", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    for wrong, models in ((tmp_path, tmp_path / "models"), (source, trained_vae.models)):
        done = run("promote", wrong, models)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_one_training_of_a_recipe_at_a_time(tmp_path: Path, run: Callable[..., Done]) -> None:
    (tmp_path / ".training").mkdir()
    with (tmp_path / ".training" / "digits-vae.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("train", "digits-vae", "--epochs", 0, "--models", tmp_path)
    assert done.returncode == 1
    assert "another training of digits-vae is writing" in done.stderr


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_place_that_takes_no_bundle_is_told_before_the_training(
    tmp_path: Path, run: Callable[..., Done], kind: str
) -> None:
    home = tmp_path / "digits-vae"
    if kind == "file":
        home.touch()
    else:
        home.symlink_to("nowhere")
    done = run("train", "digits-vae", "--models", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ancestral-exporter: {home}: cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, run: Callable[..., Done]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # smaller than a graph
    try:
        done = run("train", "digits-pixelcnn", "--models", tmp_path, "--epochs", 0, *SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 1
    assert done.stderr == f"ancestral-exporter: {tmp_path / 'digits-pixelcnn'}: cannot be written: File too large\n"
    assert list((tmp_path / "digits-pixelcnn").iterdir()) == []


def test_names_of_others_are_no_markup_and_no_commands_of_the_terminal(
    tmp_path: Path, run: Callable[..., Done]
) -> None:
    bundle = tmp_path / "[red]:smile:\x1b[2J"
    assert run("verify", bundle).stderr == (f"ancestral-exporter: {tmp_path}/[red]:smile:\\x1b[2J: no such folder\n")
    bundle.mkdir()
    (bundle / "bundle.json").write_text(json.dumps({"schema": 1, "name": "a", "family": "\x1b[2J\n[/beta]"}))
    done = run("verify", bundle)
    assert done.returncode == 1
    assert "\\x1b[2J\\n[/beta]" in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
