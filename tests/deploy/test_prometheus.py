"""The Prometheus configuration, checked by Prometheus's own tools and by a real Prometheus on a real server."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ancestral_client import Client, NotFound
from running import ServerProcess
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"


def test_promtool_accepts_the_configuration(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = run_tool("promtool", "check", "config", CONFIG)
    assert "is valid prometheus config file syntax" in said.stdout
    assert "rules found" in said.stdout


def test_the_alerts_fire_when_they_should(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run_tool("promtool", "test", "rules", ROOT / "tests" / "deploy" / "rules_test.yml")


class Prometheus:
    """A real Prometheus with our configuration, pointed at another target and in a greater hurry."""

    def __init__(self, binary: Path, folder: Path, target: str) -> None:
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": "300ms", "evaluation_interval": "300ms"}
        config["rule_files"] = [str(CONFIG.parent / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        assert job["static_configs"] == [{"targets": ["server:9464"]}]
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{listen}"
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        address = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address, timeout=60) as reply:
            result = json.load(reply)["data"]["result"]
        assert isinstance(result, list)
        return result

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The answer to a query once it is not empty."""
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            nonlocal found
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                found = self.query(expression)
            except (urllib.error.URLError, ConnectionError):
                return False  # it is starting
            return bool(found)

        until(answered)
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


@pytest.fixture(scope="module")
def prometheus(
    tool: Callable[[str], Path], toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    target = urllib.parse.urlsplit(toy_server.metrics_url).netloc
    running = Prometheus(tool("prometheus"), tmp_path_factory.mktemp("prometheus"), target)
    yield running
    running.close()


def test_prometheus_scrapes_the_server(prometheus: Prometheus) -> None:
    prometheus.wait_for('up{job="ancestral"} == 1')
    (serving,) = prometheus.wait_for("ancestral_model_serving")
    assert serving["metric"]["model"] == "tally"
    # Every method is there at zero before its first call, so that rates and alerts work at once.
    methods = {row["metric"]["grpc_method"] for row in prometheus.wait_for("grpc_server_started_total")}
    assert {"Sample", "Encode", "Decode", "ExtractFeatures", "Score", "ListModels", "GetModel"} <= methods


def test_the_rules_give_the_latency_of_real_calls(prometheus: Prometheus, toy_server: ServerProcess) -> None:
    image = np.zeros((4, 3, 1), np.uint8)
    with Client(toy_server.address) as client:
        # A histogram is there from its first value on, and a rate is what was added to it since.
        client.encode("tally", image)
        prometheus.wait_for('grpc_server_handling_seconds_count{grpc_method="Encode"}')
        for _ in range(20):
            client.encode("tally", image)
        with pytest.raises(NotFound):
            client.sample("none", 1)
    name = "grpc_method:grpc_server_handling_seconds"
    rows = {}
    for quantile in ("p50", "p99"):
        # NaN, the quantile of no calls, compares false.
        (row,) = prometheus.wait_for(f'{name}:{quantile}{{grpc_method="Encode"}} > 0')
        rows[quantile] = float(row["value"][1])
    assert 0 < rows["p50"] <= rows["p99"]
    assert prometheus.wait_for('grpc_server_handled_total{grpc_method="Sample", grpc_code="NotFound"} > 0')
