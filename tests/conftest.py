"""Fixtures that every folder may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import toybundle
from running import ServerProcess

# Background jobs of a script (`make test &`) ignore Ctrl-C, and so would their children, which some tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# All that tests reach is on this machine: a proxy has no part in it.
for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


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
