"""What lies in the zoo serves as it lies, and paints what it was trained on."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ancestral.terminal import console
from ancestral_client import Client
from ancestral_exporter import zoo
from ancestral_exporter.bundle import verify, verify_bundle
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.write import write_manifest
from ancestral_exporter.checkpoints import CHECKPOINT
from ancestral_exporter.data import load
from ancestral_exporter.make import WORK
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import find
from ancestral_exporter.training import Options, fit
from running import ServerProcess
from shared import TrainedVae

ZOO = Path(__file__).parents[2] / "exporter" / "zoo"
LIMIT_BYTES = 12 * 2**20


def test_every_bundle_is_whole_and_all_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches were verified when they were exported."""
    monkeypatch.setattr(verify, "BATCHES", (1, 7))
    bundles = [manifest.parent for manifest in ZOO.glob("*/*/bundle.json")]
    assert bundles
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) < LIMIT_BYTES
    for bundle in bundles:
        report = verify_bundle(bundle)
        assert report.ok, str(report)


def test_their_digits_are_as_likely_as_their_cards_say() -> None:
    """The entropy of a PixelCNN's own samples is near the cross-entropy of the test images, which it has learned."""
    with ServerProcess(ZOO, "--max-batch", "32") as server, Client(server.address, timeout=120) as client:
        names = []
        for model in client.models():
            labels = range(10) if model.label_count else (None,)
            drawn = [client.sample(model.name, 40 // len(labels), seed=1, label=label) for label in labels]
            if drawn[0].log_likelihood is None:  # a VAE's has none
                continue
            (test,) = (m.value for m in model.metrics if m.name == "negative_log_likelihood" and m.split == "test")
            nats = -np.concatenate([cast(NDArray[np.float32], samples.log_likelihood) for samples in drawn])
            assert abs(float(nats.mean()) - test) < 4 * float(nats.std()) / np.sqrt(len(nats)) + 5
            names.append(model.name)
        assert names == ["mnist-pixelcnn-conditional", "mnist-pixelcnn-dilated"]


def test_its_list_is_of_recipes_that_there_are() -> None:
    entries = zoo.wanted(ZOO)
    assert entries
    for entry in entries:
        chosen = entry.chosen(gpu=True)
        assert chosen is not None
        recipe, options = chosen
        said = entry.gpu or entry.cores
        assert said is not None
        assert (recipe.schedule.epochs, options.precision) == (said.epochs, said.precision)
        if entry.gpu and entry.cores:
            assert entry.gpu.epochs > entry.cores.epochs > 0


# ---- training it, with a list of its own


@pytest.fixture
def own(tmp_path: Path, trained_vae: TrainedVae) -> Path:
    """A zoo that wants the digits' VAE after two epochs, which `models` beside it has already."""
    shutil.copytree(trained_vae.models, tmp_path / "models")
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / zoo.LIST).write_text('[[bundle]]\nrecipe = "digits-vae"\ncores = { epochs = 2 }\n')
    return folder


def train(own: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    places = ["--zoo", str(own), "--models", str(own.parent / "models"), "--data", str(own.parent)]
    monkeypatch.setattr(sys, "argv", ["zoo", *places, *more])
    zoo.main()


def test_what_was_trained_already_is_not_trained_again(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = own / "digits-vae" / "1"
    train(own, monkeypatch)
    assert verify_bundle(bundle).ok
    train(own, monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    assert f"zoo: digits-vae becomes {bundle}" in said
    assert said.endswith("zoo: digits-vae is there")


def test_a_better_one_replaces_what_is_there_and_a_worse_one_does_not(
    own: Path, monkeypatch: pytest.MonkeyPatch, trained_vae: TrainedVae
) -> None:
    there = own / "digits-vae" / "3"
    for change, left in ((-0.1, "3"), (0.1, "4")):
        shutil.rmtree(own / "digits-vae", ignore_errors=True)
        shutil.copytree(trained_vae.models / "digits-vae" / "1", there)
        manifest = read_manifest(there)
        manifest.version = 3
        # Of another net, and better or worse by so much.
        settings = json.loads(manifest.provenance["settings"])
        settings["model"]["channels"] += 1
        manifest.provenance["settings"] = json.dumps(settings)
        for metric in manifest.metrics:
            metric.value += change
        write_manifest(there, manifest)
        train(own, monkeypatch)
        assert [path.name for path in (own / "digits-vae").iterdir()] == [left]


def test_a_training_ends_when_its_time_is_up_and_goes_on_later(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Hours of work in a second: no machine is so fast.
    (own / zoo.LIST).write_text('[[bundle]]\nrecipe = "digits-vae"\ncores = { epochs = 10_000 }\n')
    with pytest.raises(SystemExit):
        train(own, monkeypatch, "--minutes", "0.02")
    assert "zoo: stopped" in capsys.readouterr().err
    assert not (own / "digits-vae").exists()


def test_a_longer_training_counts_for_a_shorter_one(trained_vae: TrainedVae) -> None:
    assert zoo.trained(trained_vae.models, find("digits-vae", ["schedule.epochs=1"]))
    assert zoo.trained(trained_vae.models, find("digits-vae", ["schedule.epochs=3"])) is None
    assert zoo.trained(trained_vae.models, find("digits-vae", ["schedule.epochs=1", "model.beta=0.5"])) is None


def test_a_bundle_from_before_a_setting_was_there_has_its_default(trained_vae: TrainedVae, tmp_path: Path) -> None:
    shutil.copytree(trained_vae.models / "digits-vae" / "1", tmp_path / "digits-vae" / "1")
    manifest = read_manifest(tmp_path / "digits-vae" / "1")
    settings = json.loads(manifest.provenance["settings"])
    del settings["data"]["labelled_copies"], settings["model"]["view_shift"]
    manifest.provenance["settings"] = json.dumps(settings)
    write_manifest(tmp_path / "digits-vae" / "1", manifest)
    recipe = find("digits-vae", ["schedule.epochs=1"])
    assert zoo.trained(tmp_path, recipe)
    assert zoo.trained(tmp_path, find("digits-vae", ["schedule.epochs=1", "model.view_shift=1"])) is None
    # One of long ago said its data by their name alone.
    manifest.provenance["settings"] = json.dumps(settings | {"data": "digits"})
    write_manifest(tmp_path / "digits-vae" / "1", manifest)
    assert zoo.trained(tmp_path, recipe) is None


def refused(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The last line of a call that fails."""
    with pytest.raises(SystemExit) as end:
        train(own, monkeypatch, *more)
    assert end.value.code
    return capsys.readouterr().err.splitlines()[-1]


def test_bad_lists_are_named_before_anything_is_trained(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no mnist-vae" in refused(own, monkeypatch, capsys, "mnist-vae")
    first = '[[bundle]]\nrecipe = "digits-vae"\ncores = { epochs = 2 }\n'
    for wrong, why in (
        ('[[bundle]]\nrecipe = "digits-vea"', "did you mean 'digits-vae'"),
        ('[[bundle]]\nrecipe = "digits-vae"\nepochs = 3', r"[[bundle]] has no key 'epochs'"),
        ('[[bundle]]\nrecipe = "digits-vae"\ngpu = { precision = "bf16" }', "[[bundle]] needs gpu.epochs"),
        ('[[bundle]]\nrecipe = "digits-vae"\ncores = { epoch = 3 }', "epochs"),
        ('[[bundle]]\nrecipe = "digits-vae"\ncores = { epochs = 0 }', "cores.epochs = 0"),
        ('[[bundel]]\nrecipe = "digits-vae"', "must hold a table [[bundle]] for each recipe, not bundel"),
        ("[", "is not TOML"),
    ):
        (own / zoo.LIST).write_text(first + wrong)
        assert why in refused(own, monkeypatch, capsys)
    for content in (b"", b"bundle = 3", b"[bundle]\nrecipe = 3"):
        (own / zoo.LIST).write_bytes(content)
        assert "must hold a table [[bundle]] for each recipe" in refused(own, monkeypatch, capsys)
    (own / zoo.LIST).write_bytes(b"\xff")
    assert "cannot be read" in refused(own, monkeypatch, capsys)
    for minutes in ("0", "-1", "nan", "inf", "1e30"):
        assert f"not {float(minutes):g}" in refused(own, monkeypatch, capsys, "--minutes", minutes)
    assert not (own / "digits-vae").exists()


def test_an_entry_that_fails_keeps_none_of_the_others_waiting(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first wants data that are not there, the second another process trains, the third's place is a file."""
    wanted = ("mnist-vae", "digits-vae-2d", "digits-gan", "digits-vae")
    (own / zoo.LIST).write_text(
        "".join(f'[[bundle]]\nrecipe = "{name}"\ncores = {{ epochs = 2 }}\n' for name in wanted)
    )
    (own / "digits-gan").touch()
    work = own.parent / "models" / WORK
    work.mkdir(exist_ok=True)
    with (work / "digits-vae-2d.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        last = refused(own, monkeypatch, capsys)
    assert last == "zoo: not trained: mnist-vae, digits-vae-2d, digits-gan; the same command tries again"
    assert (own / "digits-vae" / "1" / "bundle.json").exists()


def test_what_lies_beside_the_versions_of_a_model_stays(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a bundle whose account of its training is nonsense is one of no recipe."""
    old = own / "digits-vae" / "1"
    shutil.copytree(own.parent / "models" / "digits-vae" / "1", old)
    (own / "digits-vae" / "NOTES.md").write_text("mine")
    manifest = read_manifest(old)
    for metric in manifest.metrics:
        metric.value += 0.1
    for settings in ("{", "[1]", '{"model": 3}', '{"schedule": 3}', '{"schedule": {"epochs": "many"}}'):
        manifest.provenance["settings"] = settings
        write_manifest(old, manifest)
        assert zoo.trained(own, find("digits-vae")) is None
    train(own, monkeypatch)
    assert sorted(path.name for path in (own / "digits-vae").iterdir()) == ["2", "NOTES.md"]


def test_what_only_a_gpu_trains_waits_for_one_or_comes_from_there(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished training that another machine made, by the clock and by another torch, is exported here."""
    shutil.rmtree(own.parent / "models")
    (own / zoo.LIST).write_text('[[bundle]]\nrecipe = "digits-vae"\ngpu = { epochs = 9, batch_size = 250 }\n')
    train(own, monkeypatch)
    assert "digits-vae waits for a GPU" in capsys.readouterr().out
    there = own.parent / "models" / WORK / "digits-vae"
    recipe = find("digits-vae", ["schedule.epochs=9", "schedule.batch_size=250"])
    fit(recipe, load(recipe.data), there, Options(minutes=0.001), Announcer(console(), "elsewhere"))
    found = torch.load(there / CHECKPOINT, weights_only=True)
    state = found["callbacks"]["Memory"]
    state["made"] |= {"machine": "one GPU", "torch": "1.0"}
    state["fingerprint"] = "another"
    torch.save(found, there / CHECKPOINT)
    train(own, monkeypatch)
    manifest = read_manifest(own / "digits-vae" / "1")
    settings = json.loads(manifest.provenance["settings"])
    assert settings["schedule"]["epochs"] < 9
    assert settings["schedule"]["batch_size"] == 250
    assert (manifest.provenance["machine"], manifest.provenance["torch_of_training"]) == ("one GPU", "1.0")
