"""Fixtures that every folder may use."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import fakecuda
import toybundle
from fakecuda import FakeCuda
from preloaded import Forked
from running import COMMAND, PATIENT, ServerProcess
from shared import Shared, TrainedVae

# Background jobs of a script (`make test &`) ignore Ctrl-C, and so would their children, which some tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny networks gain nothing from threads, and on a busy machine those of torch and BLAS wait for each other. It holds
# for the processes that tests start, too, and from the first import on: the workers of xdist start after this.
os.environ["OMP_NUM_THREADS"] = "1"


HEEDED = re.compile(r"ANCESTRAL_.*|PATH|PYTHON.*|HOME|TMPDIR|COLUMNS|NO_COLOR|TTY_.*|OMP_.*|.*_proxy")


def process_state() -> dict[str, Any]:
    """What all tests of a process share, and each has to leave as it found it, since any other may come next.

    Filters of warnings are not among it: pytest itself puts back what a test, or a library that it imports, has added.
    """
    umask = os.umask(0)
    os.umask(umask)
    root = logging.getLogger()
    return {
        # Those that the tests' own processes heed. What a library sets when it is first imported stays.
        "environment": {name: value for name, value in os.environ.items() if HEEDED.fullmatch(name)},
        "working folder": os.getcwd(),
        "umask": umask,
        "niceness": os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if sys.platform == "linux" else 0,
        "cores": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(),
        "signal handlers": {number.name: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        "garbage collection": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "switch interval": sys.getswitchinterval(),
        "structlog": {name: list(v) if isinstance(v, list) else v for name, v in structlog.get_config().items()},
        "root logger": (root.level, root.disabled),
    }


@pytest.fixture(autouse=True)
def leaves_the_process_as_it_was() -> Iterator[None]:
    """Fails a test whose traces another could meet, which then depends on the order of the two."""
    if "torch" in sys.modules:
        # Its one generator goes on from test to test; those of Python and numpy are seeded anew by pytest-randomly.
        sys.modules["torch"].manual_seed(0)
    before = process_state()
    yield
    after = process_state()
    changed = {what: (before[what], after[what]) for what in before if before[what] != after[what]}
    assert not changed, f"left behind in the process, before and after: {changed}"


# A tenth of the processor time. `toy_server`, and tests of starting, do as users do.
ServerProcess.usual = Forked

# All that tests reach is on this machine: a proxy has no part in it.
for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Shared:
    """`once(name, make)`: a folder that `make` fills once in a run."""
    return Shared(tmp_path_factory, pytestconfig)


@pytest.fixture(scope="session")
def trained_vae(once: Shared) -> TrainedVae:
    """`digits-vae` after two epochs, trained by the command as a user runs it."""

    def train(folder: Path) -> None:
        exporter = str(Path(sys.executable).parent / "ancestral-exporter")
        command = [exporter, "train", "digits-vae", "--models", "models", "--epochs", "2", "--seed", "3"]
        environment = os.environ | {"COLUMNS": "120"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = once("trained digits-vae", train)
    return TrainedVae(folder / "models", (folder / "stdout").read_text(), (folder / "stderr").read_text())


@pytest.fixture(scope="session")
def untrained_models(once: Shared) -> Path:
    """The models that the server's benchmarks serve, both small; only to be read."""

    def write(folder: Path) -> None:
        # They import torch, which takes seconds, and most tests need none.
        import isolation
        from rig import untrained

        small = {
            isolation.ENCODER: ("channels=8", "features=16", "blocks=0", "encoder_widths=[8,8]"),
            isolation.SAMPLER: ("channels=8", "vertical_layers=2", "horizontal_layers=1"),
        }
        for recipe, settings in small.items():
            untrained(recipe, folder, [f"model.{setting}" for setting in settings])

    return once("untrained", write)


@pytest.fixture(scope="session")
def digits_models(trained_vae: TrainedVae, once: Shared) -> Path:
    """Bundles of the demo's recipes, made by the real exporter: the VAE trained a little, the others small and not."""

    def make(folder: Path) -> None:
        # They import torch, which takes seconds, and most tests need none.
        from ancestral_demo.processes import DEFAULTS
        from entrypoints import call

        shutil.copytree(trained_vae.models, folder, dirs_exist_ok=True)
        small = {
            "digits-pixelcnn": ("channels=16", "vertical_layers=2"),
            "digits-classifier": ("encoder_widths=[8,8]", "features=32"),
        }
        for recipe in DEFAULTS:
            if not (folder / recipe).exists():
                settings = small.get(recipe, ("channels=16", "features=32"))
                options = [option for setting in settings for option in ("--set", f"model.{setting}")]
                call("ancestral-exporter", "train", recipe, "--models", str(folder), "--epochs", "0", *options)

    return once("digits-models", make)


@pytest.fixture(scope="session")
def digits_server(digits_models: Path) -> Iterator[ServerProcess]:
    """The real server, serving them; shared, so leave it as you found it."""
    with ServerProcess(digits_models, *PATIENT) as server:
        yield server


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the bundle `tally` version 1, of a made-up family."""
    models = tmp_path_factory.mktemp("models")
    toybundle.write(models)
    return models


@pytest.fixture(scope="session")
def toy_server(toy_models: Path) -> Iterator[ServerProcess]:
    """The real server, serving `tally`; shared, so leave it as you found it."""
    with ServerProcess(toy_models, *PATIENT, program=COMMAND) as server:
        yield server


@pytest.fixture(scope="session")
def fake_cuda(once: Shared) -> FakeCuda:
    """A GPU that is none, and a kernel for it."""
    return fakecuda.built(once)
