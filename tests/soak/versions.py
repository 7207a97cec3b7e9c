"""Versions of the model that come and go while the server watches the folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import traffic
from ancestral_server.settings import Settings

# A server that does not watch its folder yet has no such flag.
WATCHES = "poll_seconds" in Settings.model_fields
POLL_SECONDS = 0.2
FLAGS = ("--poll-seconds", str(POLL_SECONDS)) if WATCHES else ()


def publish(models: Path, version: int, layers: int = 0) -> None:
    """Make a version appear whole, as the exporter does: written elsewhere and renamed once."""
    with tempfile.TemporaryDirectory(dir=models.parent) as elsewhere:
        written = traffic.write_version(Path(elsewhere), version, layers)
        (models / traffic.MODEL).mkdir(parents=True, exist_ok=True)
        written.rename(models / traffic.MODEL / str(version))


def withdraw(models: Path, version: int) -> None:
    """Make a version disappear at once."""
    with tempfile.TemporaryDirectory(dir=models.parent) as elsewhere:
        shutil.move(models / traffic.MODEL / str(version), elsewhere)
