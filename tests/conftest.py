"""Fixtures that every folder may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import toybundle
from running import ServerProcess

# Background jobs of a script (`make test &`) ignore Ctrl-C, and so would their children, which some tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the bundle `tally` version 1, of a made-up family."""
    models = tmp_path_factory.mktemp("models")
    toybundle.write(models)
    return models


@pytest.fixture(scope="session")
def toy_server(toy_models: Path) -> Iterator[ServerProcess]:
    """The real server, serving `tally`; shared, so leave it as you found it."""
    # On a busy machine a slow moment must not be an overload.
    with ServerProcess(toy_models, "--max-queue-ms", "60000") as server:
        yield server
