"""Each image's command, as its Dockerfile has it: with its extra alone, as any user, without HOME, on a read-only root."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import images
from images import Container, Image, Volume
from shared import Shared
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
# Nobody's: no list of users has it, as OpenShift's are.
UID = random.SystemRandom().randrange(2**17, 2**31)

pytestmark = pytest.mark.skipif(not images.may_contain(), reason="NOT RUN: only root may make containers of its own")
Environments = Callable[[Image], Path]


@pytest.fixture(scope="module")
def environments(once: Shared, tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """What an image installs."""
    installed = once("installed package", images.install) / "installed"
    made: dict[Image, Path] = {}

    def environment(image: Image) -> Path:
        if image not in made:
            made[image] = images.environment(image, installed, tmp_path_factory.mktemp("environment"))
        return made[image]

    return environment


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """A folder for the container's user to write to, as that of a volume."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    return folder


@pytest.fixture
def server(environments: Environments, compose: dict[str, Any], toy_models: Path, tmp_path: Path) -> Iterator[Container]:
    """The server's container, as compose has it; nothing runs in it yet."""
    image, service = Image.read("server/Dockerfile"), compose["server"]
    assert service["volumes"] == ["models:/models:ro"]
    folders = {"/models": Volume(toy_models)}
    how = {"read_only": service["read_only"], "temporary": service["tmpfs"]}
    with Container(image, environments(image), tmp_path / "server", UID, folders, **how) as container:
        yield container


def test_the_server_serves_is_healthy_and_ends_and_the_client_reaches_it(
    environments: Environments, server: Container, writable: Path, tmp_path: Path
) -> None:
    image, client = Image.read("server/Dockerfile"), Image.read("clients/python/Dockerfile")
    assert server.run(image.health).returncode == 1
    with server.start(image.command) as process:
        try:
            until(lambda: process.poll() is not None or server.run(image.health).returncode == 0)
            assert process.poll() is None, process.communicate()
            with Container(
                client, environments(client), tmp_path / "client", UID, {client.folder: Volume(writable, True)},
                read_only=True, beside=server,
            ) as beside:
                for arguments in (["models"], ["sample", "tally", "-n", "4", "--seed", "7", "--out", "grid.png"]):
                    done = beside.run([*client.command, *arguments])
                    assert (done.returncode, done.stderr) == (0, ""), done
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert not [line for line in log.splitlines() if '"warning"' in line and "whoever reaches" not in line], log
    assert (writable / "grid.png").stat().st_uid == UID


def test_the_exporter_trains_verifies_and_writes_into_its_volume(
    environments: Environments, compose: dict[str, Any], writable: Path, tmp_path: Path
) -> None:
    image = Image.read("exporter/Dockerfile")
    assert compose["exporter"]["volumes"] == ["models:/models"]
    small = ["--epochs", "1", "--set", "model.channels=8", "--set", "model.features=16"]
    with Container(
        image, environments(image), tmp_path / "exporter", UID, {"/models": Volume(writable, True)}, read_only=True
    ) as container:
        done = container.run([*image.command, "train", "digits-vae", "--models", "/models", *small])
        assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (writable / "digits-vae" / "1" / "bundle.json").stat().st_uid == UID
