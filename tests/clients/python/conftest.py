"""The command `ancestral`, as its tests call it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ancestral_client import _transport, cli
from running import ServerProcess


class Clock:
    """Stands in for the module `time` where a client waits between attempts: a pause passes at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_transport, "time", clock)
    return clock


class Done(NamedTuple):
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(
    toy_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Runs `ancestral` in a folder of its own; in this process, since a start takes longer than a call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str, address: str = toy_server.address) -> Done:
        monkeypatch.setenv("ANCESTRAL_ADDRESS", address)
        monkeypatch.setattr(sys, "argv", ["ancestral", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    array = np.random.default_rng(3).integers(0, 256, (5, 4, 3, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", array)
    return array
