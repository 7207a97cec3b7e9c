"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from ancestral_exporter.errors import ExporterError, UsageError


def check_place(file: Path) -> None:
    """Raises UsageError unless a file can be written there: asked before minutes of work, not after them."""
    if file.is_dir():
        raise UsageError(f"{file}: is a folder; give the name of a file in it")
    if not file.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"{file}: nothing can be written to {file.parent}")


def write_whole(file: Path, text: str) -> None:
    """Write the text beside its place and rename it: a full disk leaves no half of it. Raises ExporterError."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise ExporterError(f"{file}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
