"""The form of the log, and of the line on stdout."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from ancestral_server.logs import coloured
from waiting import PATIENCE

# Every way by which something gets into the log: our own events, with and without an exception, Python's logging (which
# asyncio and grpc use), its warnings; and the line on stdout.
SPEAKER = """
import logging, sys, warnings
import structlog
from ancestral_server import logs
logs.configure(sys.argv[1])
log = structlog.get_logger()
log.info("serving", address="[::1]:8500")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a run failed")
    logging.getLogger("asyncio").exception("Task exception was never retrieved")
logging.getLogger("grpc").warning("a warning of %s", "grpc")
logging.getLogger("grpc").info("what nobody needs")
warnings.warn("a warning of Python")
logs.announce(sys.argv[1], "listening on [::1]:8500, metrics on [::1]:9464")
"""
ESCAPE = "\x1b["


def speak(wanted: str, **environment: str) -> str:
    """What a process writes to stdout and stderr, which are one file."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    done = subprocess.run(
        [sys.executable, "-c", SPEAKER, wanted],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout


@pytest.mark.parametrize("wanted", ["json", "auto"])
def test_beside_a_log_for_machines_every_line_is_json(wanted: str) -> None:
    lines = [json.loads(line) for line in speak(wanted, FORCE_COLOR="1").splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "error", "warning", "warning", "info"]
    assert all(line["timestamp"] for line in lines)
    assert lines[0]["address"] == "[::1]:8500"
    assert lines[1]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert lines[2]["event"] == "Task exception was never retrieved"
    assert lines[2]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert lines[3]["event"] == "a warning of grpc"
    assert "a warning of Python" in lines[4]["event"]
    # Last in its line, so that who looks for the last port of a line finds it.
    assert list(lines[5].items())[-1] == ("event", "listening on [::1]:8500, metrics on [::1]:9464")


def test_text_in_a_file_has_no_colours() -> None:
    text = speak("text")
    assert ESCAPE not in text
    assert "ZeroDivisionError" in text
    assert "a warning of grpc" in text
    assert "\nlistening on [::1]:8500, metrics on [::1]:9464\n" in text


def test_text_has_the_colours_that_are_asked_for() -> None:
    assert ESCAPE in speak("text", FORCE_COLOR="1")
    assert ESCAPE not in speak("text", FORCE_COLOR="1", NO_COLOR="1")


@pytest.mark.parametrize(
    ("environment", "expected"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)]
)
def test_a_terminal_gets_text_and_colours_unless_it_wants_none(environment: dict[str, str], expected: bool) -> None:
    ours, its = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", SPEAKER, "auto"], env={**kept, **environment}, stdout=its, stderr=its
    )
    os.close(its)
    said = b""
    # Linux tells the end of a terminal by an error, others by nothing more to read.
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:
        pass
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert (ESCAPE.encode() in said) is expected
    assert b"\nlistening on [::1]:8500" in said


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": ""}, False, False),
        ({"FORCE_COLOR": "3", "NO_COLOR": "1"}, True, False),
    ],
)
def test_who_says_whether_there_are_colours(environment: dict[str, str], terminal: bool, expected: bool) -> None:
    assert coloured(environment, terminal=terminal) is expected


def test_a_line_is_one_write_with_its_end() -> None:
    """Several processes share stderr: an unbuffered one would else mix the text of one with the end of another."""
    program = """
import sys
import structlog
from ancestral_server import logs
writes = []
class Watched:
    def write(self, text):
        writes.append(text)
    def flush(self):
        pass
sys.stderr = Watched()
logs.configure("json")
structlog.get_logger().info("serving")
sys.stderr = sys.__stderr__
assert len(writes) == 1 and writes[0].endswith("}\\n"), writes
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
