"""Versions of the model that come and go while the server watches the folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import traffic

FLAGS = ("--poll-seconds", "0.2")
# Floats that a row needs while it is computed, 5 MiB for a batch of 64: a version that leaves them behind is seen.
SCRATCH = 20_000


def publish(models: Path, version: int) -> None:
    """Make a version appear whole, as the exporter does: written elsewhere and renamed once."""
    with tempfile.TemporaryDirectory(dir=models.parent) as elsewhere:
        written = traffic.write_version(Path(elsewhere), version, scratch=SCRATCH)
        (models / traffic.MODEL).mkdir(parents=True, exist_ok=True)
        written.rename(models / traffic.MODEL / str(version))


def withdraw(models: Path, version: int) -> None:
    """Make a version disappear at once."""
    with tempfile.TemporaryDirectory(dir=models.parent) as elsewhere:
        shutil.move(models / traffic.MODEL / str(version), elsewhere)
