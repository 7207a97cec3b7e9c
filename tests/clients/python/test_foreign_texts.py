"""Texts that are not ours are shown as they are: no markup of rich, no commands of the terminal, one line each."""

from __future__ import annotations

import ast
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ancestral.terminal import console
from ancestral.text import shown, shown_lines
from ancestral.v1 import bundle_pb2, model_service_pb2
from fakeserver import FakeServer

Run = Callable[..., Any]  # the fixture of conftest.py
ROOT = Path(__file__).parents[3]

HOSTILE = [
    "[/beta]",
    "vae[beta]",
    "[red]x[/red]",
    ":smile:",
    "[link=file:///etc/passwd]x",
    "a\x1b[2Jb",
    "a\nb\rc",
    "[[]",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vae[beta] ≤ 2×3 · é 猫 🐈", "vae[beta] ≤ 2×3 · é 猫 🐈"),
        ("no\N{NO-BREAK SPACE}break", "no\N{NO-BREAK SPACE}break"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),
        ("two\nlines\r\n\ttab\0", "two\\nlines\\r\\n\\ttab\\x00"),
        ("gpj\N{RIGHT-TO-LEFT OVERRIDE}.exe", "gpj\\u202e.exe"),
        ("line\N{LINE SEPARATOR}s", "line\\u2028s"),
        (os.fsdecode(b"caf\xe9.npy"), "caf\\xe9.npy"),
        ("\ud800", "\\ud800"),
        (Path("a"), "a"),
    ],
)
def test_what_acts_or_cannot_be_seen_is_escaped(text: object, expected: str) -> None:
    assert shown(text) == expected
    assert shown_lines(f"{text}\nb").endswith("\nb")


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_of_a_server_is_shown_as_it_is(
    run: Run, fake_server: FakeServer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = model_service_pb2.ListModelsResponse()
    model = reply.models.add(name=text, version=1, reason=text, device=text)
    size = bundle_pb2.ImageSpec(height=8, width=8, channels=1)
    bundle = bundle_pb2.Bundle(name=text, family=text, description=text, image=size)
    bundle.roles.add(name=text)
    model.bundle.CopyFrom(bundle)
    fake_server.answer = lambda request, context: reply.SerializeToString()
    done = run("models", address=fake_server.address)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.count(shown(text)) == 3
    assert "\x1b" not in done.stdout
    told = json.loads(run("models", "--json", address=fake_server.address).stdout)
    assert told[0]["reason"] == text
    # On a terminal too, where rich has colours and knows the width.
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert shown(text) in run("models", address=fake_server.address).stdout

    loaded = model_service_pb2.LoadModelResponse(model=model)
    fake_server.answer = lambda request, context: loaded.SerializeToString()
    done = run("load", "m", address=fake_server.address)
    assert (done.returncode, done.stdout) == (0, f"{shown(text)} version 1 serves on {shown(text)}\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_message_of_a_server_is_one_line(run: Run, fake_server: FakeServer, text: str) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_code(grpc.StatusCode.INTERNAL)
        context.set_details(text)
        return b""

    fake_server.answer = answer
    done = run("models", address=fake_server.address)
    assert (done.returncode, done.stderr) == (1, f"ancestral: INTERNAL: {shown(text)}\n")


@pytest.mark.parametrize("text", [*HOSTILE, os.fsdecode(b"caf\xe9"), "猫"])
def test_names_of_files_are_shown_as_they_are(run: Run, tmp_path: Path, text: str) -> None:
    name = text.replace("/", "|")
    np.save(tmp_path / f"{name}.npy", np.zeros((2, 4, 3, 1), np.uint8))
    done = run("encode", "tally", f"{name}.npy", "--out", f"{name}.npz")
    assert (done.returncode, done.stdout) == (0, f"wrote {shown(name)}.npz: 2 × 2 latents\n"), done.stderr
    for arguments in (
        ("encode", "tally", f"{name}-none.npy", "--out", "z.npz"),
        ("encode", "tally", "z.npy", "--out", f"{name}.gif"),
        ("score", "tally", f"{name}.npy", "--labels", f"{name}-none.npy"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done
        assert shown(name) in done.stderr
        assert done.stderr.startswith("ancestral: ")
        assert done.stderr.count("\n") == 1
    done = run("encode", "tally", "z.npy", name, "--out", "z.npz")  # told by typer
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_letter_that_the_output_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", narrow)
        done = run("models")
    assert done.returncode == 0
    narrow.seek(0)
    assert "4\\xd73\\xd71" in narrow.read()


def test_a_console_takes_every_text_literally() -> None:
    out = io.StringIO()
    console(file=out, width=100, force_terminal=True).print("[bold]x[/] :smile: [/]")
    assert out.getvalue() == "[bold]x[/] :smile: [/]\n"


def test_every_console_is_such_a_one() -> None:
    """Nothing else makes one, and no bar reads markup in its columns."""
    made = []
    for path in (path for part in ("clients", "exporter", "protos") for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                literal = any(option.arg == "markup" for option in node.keywords)
                if node.func.id == "Console" or (node.func.id == "TextColumn" and not literal):
                    made.append(path.name)
    assert made == ["terminal.py"]
