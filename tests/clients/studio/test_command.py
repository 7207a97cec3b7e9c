"""`ancestral studio`, as far as it gets before it serves."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

TAKEN = "TAKEN"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--port", TAKEN),
            "--port: cannot listen on 127.0.0.1 port TAKEN: Address already in use; name another, or port 0",
        ),
        (("--address", "localhost:x"), "--address: "),
        (("--port", "70000"), "--port: is 70000, must be 0 to 65535"),
    ],
    ids=["a port that is taken", "an address that is none", "a port that is none"],
)
def test_what_is_wrong_with_its_arguments_is_told_before_it_serves(arguments: tuple[str, ...], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [str(Path(sys.executable).parent / "ancestral"), "studio"]
        given = [argument.replace(TAKEN, port) for argument in arguments]
        done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said.replace(TAKEN, port) in done.stderr
    assert "Traceback" not in done.stderr
