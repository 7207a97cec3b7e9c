"""The tools that `make tools` puts into .tools/bin."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """The path of a tool; a missing one fails the test, since a skipped check would pass unseen."""

    def find(name: str) -> Path:
        path = ROOT / ".tools" / "bin" / name
        assert path.exists(), f"{path} is missing: run 'make tools'"
        return path

    return find


@pytest.fixture(scope="session")
def run_tool(tool: Callable[[str], Path]) -> RunTool:
    """Runs a tool in the repository's root and asserts that it succeeds."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [tool(name), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
