"""Starting and stopping commands, with stand-ins for the exporter and the real server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import toybundle
from ancestral_client import Client
from ancestral_demo import processes
from ancestral_demo.processes import DEFAULTS, RECIPES, DemoError, Server, has_any_bundle, sampling_model, train_missing


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that writes an empty manifest, or fails if the recipe is digits-vae and the file `broken` exists."""
    script = tmp_path / "ancestral-exporter"
    script.write_text(
        f"""#!{sys.executable}
import pathlib, sys
_, recipe, _, models = sys.argv[1:]
if recipe == "digits-vae" and pathlib.Path({str(tmp_path)!r}, "broken").exists():
    sys.exit(3)
folder = pathlib.Path(models, recipe, "1")
folder.mkdir(parents=True)
(folder / "bundle.json").write_text("{{}}")
"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(processes, "command", lambda name: str(tmp_path / name))
    return tmp_path


def test_what_is_missing_is_trained_once(exporter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = exporter / "models"
    assert train_missing(models) == list(DEFAULTS)
    assert capsys.readouterr().out.startswith(f"no {' and no '.join(DEFAULTS)} in {models}: training takes minutes")
    assert train_missing(models) == []
    (models / "digits-vae" / "1" / "bundle.json").unlink()  # a folder without a manifest is no bundle
    (models / "digits-vae" / "1").rmdir()
    assert train_missing(models) == ["digits-vae"]
    assert train_missing(exporter / "demo", RECIPES) == list(RECIPES)  # what the demo shows, and no more


def put(models: Path, name: str, *roles: str, bits: float | None = None) -> None:
    """A manifest and nothing else; bits: per dimension, of the test images."""
    (models / name / "1").mkdir(parents=True)
    metrics = [] if bits is None else [{"name": "bits_per_dim", "split": "test", "value": bits}]
    manifest = {"schema": 1, "roles": [{"name": role} for role in roles], "metrics": metrics}
    (models / name / "1" / "bundle.json").write_text(json.dumps(manifest))


def test_the_model_that_can_be_asked_for_samples(tmp_path: Path) -> None:
    models, zoo = tmp_path / "models", tmp_path / "zoo"
    assert (has_any_bundle(models), sampling_model(models, zoo), sampling_model(models)) == (False, None, None)
    put(models, "encoder", "encode")
    (models / "broken" / "1").mkdir(parents=True)
    for spoilt in ("[", "null", '{"schema": 1, "roles": 3}'):
        (models / "broken" / "1" / "bundle.json").write_text(spoilt)
        assert (has_any_bundle(models), sampling_model(models)) == (True, None)
    put(models, "painter", "score", "sample")
    assert sampling_model(models) == "painter"
    put(models, "better", "sample", bits=3)
    assert sampling_model(models) == "better"
    for recipe, bits in (("digits-vae", 2.0), ("digits-pixelcnn", 1.7)):
        put(models, recipe, "sample", bits=bits)
        assert sampling_model(models) == recipe
    put(zoo, "mnist-gan", "sample")
    assert sampling_model(models, zoo) == "mnist-gan"
    put(zoo, "mnist-small", "sample", bits=0.2)
    put(zoo, "mnist-large", "sample", bits=0.1)
    assert sampling_model(models, zoo) == "mnist-large"
    put(models, "mnist-large", "encode")  # hides the one in the zoo
    assert sampling_model(models, zoo) == "mnist-small"
    put(zoo, "mnist-of-a-class", "sample", bits=0.05)
    manifest = json.loads((zoo / "mnist-of-a-class" / "1" / "bundle.json").read_text())
    manifest["roles"][0]["inputs"] = [{"name": "label", "meaning": "MEANING_LABEL"}]
    (zoo / "mnist-of-a-class" / "1" / "bundle.json").write_text(json.dumps(manifest))
    assert sampling_model(models, zoo) == "mnist-small"
    assert sampling_model(models, tmp_path / "nowhere") == sampling_model(models) == "digits-pixelcnn"


def test_nothing_is_trained_inside_a_model(exporter: Path) -> None:
    model = exporter / "models" / "mine"
    (model / "1").mkdir(parents=True)
    (model / "1" / "bundle.json").touch()
    for folder, what in ((model, "a model"), (model / "1", "a bundle")):
        with pytest.raises(DemoError, match=f"is {what}, no folder of models; was {model.parent} meant"):
            train_missing(folder)
    assert [path.name for path in model.iterdir()] == ["1"]


def test_a_failed_training_is_told_with_its_command(exporter: Path) -> None:
    (exporter / "broken").touch()
    with pytest.raises(DemoError, match=r"training digits-vae failed: `.*train digits-vae --models .*exit code 3"):
        train_missing(exporter / "models")


def test_the_server_is_stopped_whatever_happens(toy_models: Path) -> None:
    server = Server(toy_models)

    def fail_while_it_serves() -> None:
        with server, Client(server.address) as client:
            assert client.model("tally").serving
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_while_it_serves()
    assert server._process.poll() == 0


def test_the_zoo_is_served_beside_the_models_and_nothing_is_written(toy_models: Path, tmp_path: Path) -> None:
    mine, zoo = tmp_path / "mine", tmp_path / "zoo"
    mine.mkdir()
    toybundle.write(zoo)
    before = sorted(tmp_path.rglob("*"))
    with Server(mine, zoo) as server, Client(server.address) as client:
        assert [model.name for model in client.models()] == ["tally"]
    assert sorted(tmp_path.rglob("*")) == before
    # No such folder, as where Ancestral was installed by pip: nothing changes.
    with Server(toy_models, tmp_path / "no zoo") as server, Client(server.address) as client:
        assert client.model("tally").serving


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"(?s)the server did not start:\n.+"), Server(tmp_path / "none"):
        pass
