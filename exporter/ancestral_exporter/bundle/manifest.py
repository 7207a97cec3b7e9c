"""Reads the manifest of a bundle that somebody names."""

from __future__ import annotations

from pathlib import Path

from ancestral.bundle.manifest import MANIFEST, NoManifest, parse
from ancestral.v1 import bundle_pb2
from ancestral_exporter.errors import UsageError


def read_manifest(folder: Path) -> bundle_pb2.Bundle:
    """The manifest of the bundle in a folder. Raises UsageError that says what the folder is instead."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    try:
        return parse((folder / MANIFEST).read_bytes(), strict=True)
    except FileNotFoundError:
        within = sorted(str(path.parent.relative_to(folder)) for path in folder.glob(f"*/{MANIFEST}"))
        hint = f"; it is a model, pass one of its versions: {', '.join(within)}" if within else ""
        raise UsageError(f"{folder}: is not a bundle, since it has no {MANIFEST}{hint}") from None
    except NoManifest as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{folder}: is not a bundle, since its {MANIFEST} {reason}") from error
