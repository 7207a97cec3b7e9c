"""`make` alone is the map of what can be done."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)


def make(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_target() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+) +\S", make(), re.MULTILINE))
    assert PHONY is not None
    assert listed == set(PHONY[1].split()) - {"help"}


def test_check_runs_every_checker() -> None:
    planned = make("-n", "check")
    for command in ("ruff check", "ruff format --check", "mypy", "lint-imports", "buf lint", "buf format", "-stubs"):
        assert command in planned, command


def test_ci_runs_check_and_test() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "set -euo pipefail" in lines
    # Once each: a test that fails now and then is a defect, and a second try would hide it.
    assert (
        [line for line in lines if re.search(r"\bmake (check|test)\b", line)]
        == lines[-2:]
        == ["make check", "make test"]
    )
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_gpu_check_installs_nothing_when_it_is_told_which_python() -> None:
    assert "install" not in make("-n", "gpu-check", "PYTHON=python3")
    assert "python3 tests/benchmarks/gpu_check.py" in make("-n", "gpu-check", "PYTHON=python3")
    assert ".venv/bin/python tests/benchmarks/gpu_check.py" in make("-n", "gpu-check")


def test_what_users_run_installs_no_more_than_the_parts() -> None:
    # As if nothing were there.
    demo, test = (make("-n", "-B", target) for target in ("demo", "test"))
    assert ".ci/install .venv client,server,exporter,demo" in demo
    assert ".ci/install .venv all" in test
    assert test.count(".ci/install ") == demo.count(".ci/install ") == 1


def test_what_it_runs_keeps_its_bytecode_whatever_a_container_sets() -> None:
    probe = "seen: ; @echo $${PYTHONDONTWRITEBYTECODE-unset}"
    assert make("--eval", probe, "seen", PYTHONDONTWRITEBYTECODE="1") == "unset\n"
