"""docker-compose.yml as docker-compose reads it, and the Dockerfiles that it names. No Docker engine is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from ancestral_server import command_line
from running import ServerProcess
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("server/Dockerfile", "exporter/Dockerfile", "clients/python/Dockerfile")

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def compose(run_tool: RunTool) -> dict[str, Any]:
    document = yaml.safe_load(run_tool("docker-compose", "config").stdout)
    assert isinstance(document, dict)
    return document


def test_the_services_share_what_they_must(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"exporter", "server", "prometheus", "alertmanager", "grafana"}
    assert "models:/models:rw" in services["exporter"]["volumes"]
    assert "models:/models:ro" in services["server"]["volumes"]
    assert services["server"]["depends_on"] == {"exporter": {"condition": "service_completed_successfully"}}


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(ports) == [f"127.0.0.1:{port}:{port}/tcp" for port in (3000, 8500, 9090, 9093)]


def test_what_compose_names_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or Path(source).exists(), volume


def test_the_gpu_override_asks_for_a_gpu_and_lets_the_server_say_if_there_is_none(run_tool: RunTool) -> None:
    files = ("-f", "docker-compose.yml", "-f", "deploy/docker-compose.gpu.yml")
    server = yaml.safe_load(run_tool("docker-compose", *files, "config").stdout)["services"]["server"]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert server["environment"] == {"ANCESTRAL_SERVER_DEVICE": "cuda"}
    assert server["build"]["args"] == {"EXTRAS": "server,gpu"}


def test_the_override_for_tls_names_settings_that_the_server_has(run_tool: RunTool) -> None:
    files = ("-f", "docker-compose.yml", "-f", "deploy/docker-compose.tls.yml")
    server = yaml.safe_load(run_tool("docker-compose", *files, "config").stdout)["services"]["server"]
    given, remarks = command_line.read(["--models", "/models"], server["environment"])
    assert remarks == []
    mounts = {volume.split(":")[1] for volume in server["volumes"]}
    assert {str(path.parent) for path in (given.tls_cert, given.tls_key, given.callers) if path} <= mounts
    # The image's health check has no token.
    assert given.health_port


def test_what_prometheus_needs_for_tls_is_in_its_container(run_tool: RunTool) -> None:
    files = ("-f", "docker-compose.yml", "-f", "deploy/docker-compose.tls.yml")
    prometheus = yaml.safe_load(run_tool("docker-compose", *files, "config").stdout)["services"]["prometheus"]
    mounts = {volume.split(":")[1] for volume in prometheus["volumes"]}
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    # The lines that the override tells to take in.
    taken = re.sub(r"^( +)# (scheme|tls_config|authorization):", r"\1\2:", text, flags=re.MULTILINE)
    (job,) = yaml.safe_load(taken)["scrape_configs"]
    assert job["scheme"] == "https"
    needed = [job["tls_config"]["ca_file"], job["authorization"]["credentials_file"]]
    assert {str(Path(file).parent) for file in needed} <= mounts


def test_the_healthcheck_tells_a_serving_server_from_none(compose: dict[str, Any], toy_server: ServerProcess) -> None:
    # The image's own, which Kubernetes and plain Docker have as well.
    assert "healthcheck" not in compose["services"]["server"]
    (text,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", (ROOT / "server" / "Dockerfile").read_text(), re.MULTILINE)
    command = json.loads(text)
    command[0] = str(Path(sys.executable).parent / command[0])

    def exit_code(port: str, **more: str) -> int:
        # As in the image: it listens everywhere.
        environment = {**os.environ, "ANCESTRAL_SERVER_HOST": "0.0.0.0", "ANCESTRAL_SERVER_PORT": port, **more}
        return subprocess.run(command, env=environment, timeout=500, capture_output=True, check=False).returncode

    port = toy_server.address.rpartition(":")[2]
    assert exit_code(port) == 0
    assert exit_code(port, http_proxy="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1") == 0
    assert exit_code("1") == 1


def test_grafana_finds_its_data_source_and_its_dashboards(compose: dict[str, Any]) -> None:
    mounted = {
        target: Path(source)
        for source, target, _ in (volume.rsplit(":", 2) for volume in compose["services"]["grafana"]["volumes"])
    }
    provisioning = mounted["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "ancestral.yml").read_text())["providers"]
    dashboards = mounted[provider["options"]["path"]]
    assert len(list(dashboards.glob("*.json"))) == 4
    home = Path(compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (dashboards / home.name).is_file()


def test_prometheus_and_alertmanager_find_their_files_and_each_other(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("prometheus", "alertmanager"):
        mounted = {
            target: Path(source)
            for source, target, _ in (volume.rsplit(":", 2) for volume in services[name]["volumes"])
        }
        (config,) = (flag.partition("=")[2] for flag in services[name]["command"] if flag.startswith("--config.file="))
        assert (mounted[str(Path(config).parent)] / Path(config).name).is_file()
    flags = dict(flag.partition("=")[::2] for flag in services["prometheus"]["command"])
    # Where the page's links to runbooks lead.
    consoles = Path(flags["--web.console.templates"])
    targets = {volume.rsplit(":", 2)[1] for volume in services["prometheus"]["volumes"]}
    assert {str(consoles / "ancestral.html"), str(consoles / "runbooks")} <= targets


def test_the_exporter_job_trains_each_default_model_once(
    run_tool: RunTool, compose: dict[str, Any], tmp_path: Path
) -> None:
    """The job's own shell text, with a stand-in for the exporter that writes down how it was called."""
    job = compose["services"]["exporter"]
    # `config` shows $ as $$; the containers get $.
    text = job["command"][0].replace("$$", "$").replace("/models", str(tmp_path / "models"))
    (tmp_path / "models" / "digits-vae").mkdir(parents=True)
    stand_in = tmp_path / "ancestral-exporter"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([*job["entrypoint"], text], env=environment, check=True, timeout=500)
    assert (tmp_path / "calls").read_text() == f"train digits-pixelcnn --models {tmp_path}/models\n"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_its_own_part_as_a_plain_user(name: str) -> None:
    text = (ROOT / name).read_text()
    extras = set(re.findall(r"^ARG EXTRAS=(\S+)|\.\[([a-z]+)\]", text, re.MULTILINE))
    named = {extra for pair in extras for extra in pair if extra}
    assert named == {{"clients": "client"}.get(name.split("/")[0], name.split("/")[0])}
    assert named <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    assert "-c requirements.lock" in text
    # A number, by which Kubernetes knows that it is not root.
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "--uid 10001" in text, "the images share files through volumes"


@pytest.mark.parametrize(
    ("name", "extras", "build"),
    [
        ("server/Dockerfile", "server", "onnxruntime"),
        ("server/Dockerfile", "server,gpu", "onnxruntime-gpu"),
        ("exporter/Dockerfile", "exporter", "onnxruntime"),
    ],
)
def test_an_image_holds_one_build_of_onnxruntime_and_that_of_gpus_only_for_one(
    tmp_path: Path, name: str, extras: str, build: str
) -> None:
    """The image's own shell text, on copies of what it reads."""
    (command,) = re.findall(r"^RUN (.*sed -i .*)$", (ROOT / name).read_text(), re.MULTILINE)
    for file in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    subprocess.run(
        ["sh", "-euc", command], cwd=tmp_path, env={**os.environ, "EXTRAS": extras}, check=True, timeout=PATIENCE
    )
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    after = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(text) for extra in extras.split(",") for text in after[extra]]
    here = [each for each in wanted if each.marker is None or each.marker.evaluate({"sys_platform": "linux"})]
    assert {each.name for each in here if each.name.startswith("onnxruntime")} == {build}
    assert len(after[extras.split(",")[0]]) == len(before[extras.split(",")[0]])
    # At the version of the tests.
    pins = {
        (each.name, str(each.specifier))
        for folder in (ROOT, tmp_path)
        for line in (folder / "requirements.lock").read_text().splitlines()
        if line.startswith("onnxruntime")
        for each in [Requirement(line)]
        if each.marker is None or each.marker.evaluate({"sys_platform": "linux"})
    }
    assert {name for name, _ in pins} == {"onnxruntime-gpu", build}
    assert len({version for _, version in pins}) == 1


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_there_and_is_sent_to_the_builder(name: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / name).read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


def test_the_entry_points_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in DOCKERFILES:
        entry = re.search(r'^ENTRYPOINT \["([^"]+)"\]$', (ROOT / name).read_text(), re.MULTILINE)
        assert entry is not None
        assert entry[1] in scripts


def test_the_unit_of_systemd_starts_the_server_and_waits_for_its_end() -> None:
    unit = (ROOT / "deploy" / "systemd" / "ancestral-server.service").read_text()
    found = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    program, *arguments = found["ExecStart"].split()
    assert program == "/opt/ancestral/bin/ancestral-server"
    settings, _ = command_line.read(arguments, {})
    assert float(found["TimeoutStopSec"]) > settings.drain_seconds
    assert "ancestral-server health" in found["ExecStartPost"]
