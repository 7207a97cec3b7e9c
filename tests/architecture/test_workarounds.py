"""Every workaround says what it is, why, since when, what it costs, and which test tells when it may go."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server/ancestral_server"
CLIENT = ROOT / "clients/python/ancestral_client"
ROOMS = (
    SERVER / "rpc/grpc_workarounds",
    SERVER / "rpc/opentelemetry_workarounds",
    SERVER / "runtime/onnxruntime_workarounds",
    CLIENT / "_grpc_workarounds",
)
ENTRIES = sorted(path for room in ROOMS for path in room.glob("*.py") if path.name != "__init__.py")
QUESTIONS = ("What", "Why", "Since", "Costs", "Goes")
TEST = re.compile(r"(tests/\S+\.py)::\s*(test_\w+)")


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_an_entry_answers_every_question_and_names_a_test_that_there_is(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    answers = dict(re.findall(r"^(\w+): +(.*(?:\n +.*)*)", text, re.MULTILINE))
    assert tuple(answers) == QUESTIONS
    assert all(answers.values())
    assert re.search(r"\d\.\d", answers["Since"]), "a version"
    named = TEST.search(answers["Goes"])
    assert named is not None, answers["Goes"]
    file, test = named.groups()
    for name in (test, *re.findall(r"(?<!py)::(test_\w+)", answers["Goes"])):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_there_are_entries() -> None:
    assert {"accepting", "reading", "telemetry", "bare_run", "kept_status"} <= {path.stem for path in ENTRIES}
