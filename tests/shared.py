"""What takes long to make and no test changes, made once in a run, whichever of its processes asks for it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock


class TrainedVae(NamedTuple):
    """The folder of models that a training wrote, only to be read, and what it printed."""

    models: Path
    stdout: str
    stderr: str


class Shared:
    """Folders by name, in the temporary folder that all processes of a run have in common."""

    def __init__(self, factory: pytest.TempPathFactory, config: pytest.Config) -> None:
        base = factory.getbasetemp()
        # A process of xdist has a folder of its own within the run's.
        self._folder = (base.parent if hasattr(config, "workerinput") else base) / "shared"
        self._folder.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder `name`, which `make` fills: only to be read. A process that finds another at it waits."""
        folder, partial = self._folder / name, self._folder / f"{name}.partial"
        with FileLock(self._folder / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
        return folder
