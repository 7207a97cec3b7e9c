"""`ancestral-server health`: its exit codes and what it says, on the real server and on none."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from ancestral_server import health
from ancestral_server.command_line import WrongUsage
from running import ServerProcess


def asked(*arguments: str, **environment: str) -> int:
    return health.main(arguments, environment)


def test_a_server_and_its_models_are_asked(toy_server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    address = toy_server.address
    host, _, port = address.rpartition(":")
    assert asked("--address", address) == 0
    assert capsys.readouterr() == (f"{address}: SERVING\n", "")
    # Without an address: where a server with the same variables listens, set to nothing or to a Service or not.
    assert asked(ANCESTRAL_SERVER_HOST=host, ANCESTRAL_SERVER_PORT=port) == 0
    assert asked(ANCESTRAL_SERVER_HOST="0.0.0.0", ANCESTRAL_SERVER_PORT=f" {port} ") == 0
    assert capsys.readouterr().out == f"{address}: SERVING\nlocalhost:{port}: SERVING\n"
    assert asked("--address", address, "--model", "tally", "--model", "tally/1") == 0
    assert capsys.readouterr().out == f"model tally on {address}: SERVING\nmodel tally/1 on {address}: SERVING\n"
    # One of two is not enough.
    assert asked("--address", address, "--model", "tally", "--model", "none") == 1
    said = capsys.readouterr()
    assert said.out == f"model tally on {address}: SERVING\n"
    assert said.err.startswith(f"model none on {address}: the server has none of that name")


def test_the_command_ends_with_the_code_and_loads_no_model_runtime(toy_server: ServerProcess) -> None:
    script = (
        "import sys\nfrom ancestral_server import cli\ntry:\n    cli.main()\nfinally:\n"
        "    print('onnxruntime' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "health", "--address", toy_server.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{toy_server.address}: SERVING", "False"])
    done = subprocess.run([*command, "--model", "none"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1
    done = subprocess.run([*command, "--modle", "none"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 2
    assert done.stderr == "ancestral-server: unrecognized arguments: --modle none\n"


def test_who_does_not_answer_or_is_no_such_server_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("--address", "localhost:1") == 1
    assert capsys.readouterr().err.startswith("localhost:1: UNAVAILABLE: ")
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("localhost:0")
    other.start()
    try:
        assert asked("--address", f"localhost:{port}") == 1
    finally:
        other.stop(0).wait()
    assert "knows no health checks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "localhost"], "--address: must be HOST:PORT, the port from 1 to 65535 (got 'localhost')"),
        (["--address", ":8500"], "--address: must be HOST:PORT, the port from 1 to 65535 (got ':8500')"),
        (["--address", "a:65536"], "--address: must be HOST:PORT, the port from 1 to 65535 (got 'a:65536')"),
        (["--address", "a:٣"], "--address: must be HOST:PORT, the port from 1 to 65535 (got 'a:٣')"),
        (["--address", "a b:1"], "--address: must be an address or a name"),
        (["--address", "a:1", "--timeout", "0"], "--timeout: must be more than 0 seconds and finite (got 0)"),
        (["--address", "a:1", "--timeout", "nan"], "--timeout: must be more than 0 seconds and finite (got nan)"),
        (["--address", "a:1", "--timeout", "soon"], "--timeout: invalid float value: 'soon'"),
        (["--address", "a:1", "--model", "\udcff"], "--model: must be a name of printable characters"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(arguments: list[str], said: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        asked(*arguments)
    assert str(caught.value).startswith(said)
