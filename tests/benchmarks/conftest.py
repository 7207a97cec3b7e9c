"""What the benchmarks measure, made once in a run: their short forms here look at reports, and not at figures."""

from __future__ import annotations

from pathlib import Path

import pytest

import front_end
import isolation
from rig import untrained
from shared import Shared

SMALL = ["model.channels=8", "model.vertical_layers=2", "model.horizontal_layers=1"]


@pytest.fixture(scope="session")
def untrained_models(once: Shared) -> Path:
    """The folder of models that the server's benchmarks serve, the sampler small; only to be read."""

    def write(folder: Path) -> None:
        untrained(front_end.MODEL, folder)
        untrained(isolation.SAMPLER, folder, SMALL)

    return once("untrained", write)


@pytest.fixture(scope="session")
def encoder(untrained_models: Path) -> Path:
    """The bundle of which Encode is timed."""
    return untrained_models / front_end.MODEL / "1"
