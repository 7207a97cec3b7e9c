"""Where the server listens: what it prints can be pasted into the client, whatever form the host had."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from ancestral_client import Client
from running import HAS_IPV6, ServerProcess
from waiting import PATIENCE

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no ::1")


@pytest.mark.parametrize(
    ("host", "flags", "shown"),
    [
        pytest.param("::1", (), "[::1]:", marks=needs_ipv6),
        pytest.param("[::]", ("--processes", "2", "--threads", "2"), "[::]:", marks=needs_ipv6),
        pytest.param("[::ffff:127.0.0.1]", ("--share-port",), "[::ffff:127.0.0.1]:", marks=needs_ipv6),
        ("localhost", ("--processes", "2", "--threads", "2"), "localhost:"),
    ],
)
def test_the_printed_addresses_are_reached(toy_models: Path, host: str, flags: tuple[str, ...], shown: str) -> None:
    with ServerProcess(toy_models, "--host", host, *flags) as server:
        assert server.address.startswith(shown)
        assert server.metrics_url.startswith(f"http://{shown}")
        with Client(server.address, timeout=PATIENCE) as client:
            assert [model.name for model in client.models()] == ["tally"]
        assert "ancestral_server_info" in server.metrics()


def refused(models: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "ancestral_server", "--models", str(models), "--device", "cpu", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    # gRPC has a log of its own, which has said something, too.
    return ended.stderr.splitlines()[-1]


@needs_ipv6
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_taken_port_of_an_ipv6_address_is_said_as_it_is_written(toy_models: Path, processes: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = str(taken.getsockname()[1])
        said = refused(toy_models, "--host", "::1", "--port", port, "--metrics-port", "0", "--processes", processes)
    assert said == (
        f"ancestral-server: cannot listen on [::1]:{port}: Address already in use; choose another with --port or --host"
    )


def test_a_name_that_nobody_knows_is_said(toy_models: Path) -> None:
    said = refused(toy_models, "--host", "no-such-host.invalid", "--port", "0", "--metrics-port", "0")
    assert said.startswith("ancestral-server: cannot listen on no-such-host.invalid:0: ")


def test_variables_that_are_no_settings_stand_in_the_log_and_stop_nothing(
    toy_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container beside a Service of Kubernetes called ancestral-server."""
    monkeypatch.setenv("ANCESTRAL_SERVER_DEVICE", "")
    monkeypatch.setenv("ANCESTRAL_SERVER_METRICS_PORT", "tcp://10.0.0.7:9464")
    monkeypatch.setenv("ANCESTRAL_SERVER_SERVICE_HOST", "10.0.0.7")
    monkeypatch.setenv("ANCESTRAL_SERVER_MAX_BACTH", "3")
    with (
        ServerProcess(toy_models, "--processes", "2", "--threads", "2") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        grpc.channel_ready_future(channel).result(PATIENCE)
        assert server.stop() == 0
    events = [json.loads(line)["event"] for line in server.log]
    # Once, and not again by each process.
    assert [event.split()[0] for event in events if "ignored" in event] == [
        "ANCESTRAL_SERVER_METRICS_PORT=tcp://10.0.0.7:9464",
        "ANCESTRAL_SERVER_MAX_BACTH",
    ]
