"""Each image's command, by its Dockerfile: with its extra alone, as any user, without HOME, on a read-only root."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import images
from images import Commands, Contained, Image, Volume
from shared import Shared, TrainedVae
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
# Nobody's: no list of users has it.
UID = random.SystemRandom().randrange(2**17, 2**31)
# By `make image-check`: it takes 17 s of CPU, most of them torch's to export.
TRAINS = "IMAGE_CHECK" in os.environ

Run = Callable[..., Commands]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.fixture
def run(once: Shared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Where commands of an image run; given the image, volumes and what more `Container` takes."""
    installed = once("installed package", images.install) / "installed"

    def contained(image: Image, volumes: dict[str, Volume], **how: Any) -> Commands:
        environment = images.environment(image, installed, tmp_path_factory.mktemp("environment"))
        return Contained(image, environment, tmp_path_factory.mktemp("root") / "root", UID, volumes, **how)

    return contained


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """One that the commands may write to."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    return Volume(folder, writable=True)


def readable(models: Path, folder: Path) -> Path:
    """A copy that anybody may read, as a volume."""
    shutil.copytree(models, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def done(commands: Commands) -> None:
    """What could not be run as it will be is not passed."""
    if commands.lacks:
        pytest.skip(f"RAN, BUT NOT {commands.lacks}")


def test_the_server_serves_is_healthy_and_ends_and_the_client_reaches_it(
    run: Run, compose: dict[str, Any], toy_models: Path, volume: Volume, tmp_path: Path
) -> None:
    image, client = Image.read("server/Dockerfile"), Image.read("clients/python/Dockerfile")
    service = compose["server"]
    assert service["volumes"] == ["models:/models:ro"]
    how = {"read_only": service["read_only"], "temporary": service["tmpfs"]}
    with run(image, {"/models": Volume(readable(toy_models, tmp_path / "models"))}, **how) as server:
        assert server.run(image.health).returncode == 1
        with server.start(image.command) as process:
            try:
                until(lambda: process.poll() is not None or server.run(image.health).returncode == 0)
                assert process.poll() is None, process.communicate()
                with run(client, {client.folder: volume}, read_only=True, beside=server) as caller:
                    models = caller.run([*client.command, "models"])
                    assert (models.returncode, models.stderr) == (0, "")
                    assert "tally" in models.stdout
                    words = ["sample", "tally", "-n", "4", "--seed", "7", "--out", f"{client.folder}/a.png"]
                    sampled = caller.run([*client.command, *words])
                    assert sampled.returncode == 0, sampled.stderr
            finally:
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, log
        # Of what it has to say of itself: that it is open to all.
        said = [line for line in log.splitlines() if '"level": "info"' not in line]
        assert len(said) == 1, log
        assert "whoever reaches 0.0.0.0 may call" in said[0]
        assert (volume.source / "a.png").exists()
        done(server)


def test_the_exporter_verifies_what_is_there_and_trains_into_its_volume(
    run: Run, compose: dict[str, Any], trained_vae: TrainedVae, volume: Volume
) -> None:
    image = Image.read("exporter/Dockerfile")
    assert compose["exporter"]["volumes"] == ["models:/models"]
    # Where the next version goes.
    readable(trained_vae.models / "digits-vae", volume.source / "digits-vae").chmod(0o777)
    with run(image, {"/models": volume}, read_only=True) as exporter:
        said = exporter.run([*image.command, "verify", "/models/digits-vae/1"])
        assert (said.returncode, said.stderr) == (0, ""), said
        if TRAINS:
            small = ["--epochs", "1", "--set", "model.channels=8", "--set", "model.features=16"]
            said = exporter.run([*image.command, "train", "digits-vae", "--models", "/models", *small])
            assert (said.returncode, said.stderr) == (0, ""), said
            assert os.access(volume.source / "digits-vae" / "2" / "bundle.json", os.R_OK)
        done(exporter)
