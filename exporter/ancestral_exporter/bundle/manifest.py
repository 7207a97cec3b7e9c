"""Reads the manifest of a bundle that somebody names, and what it says of its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def settings_of(manifest: bundle_pb2.Bundle) -> dict[str, Any]:
    """The settings of the recipe that a bundle was trained by; nothing where it has none, or none that can be read:
    a provenance is text, which anybody may have written.
    """
    try:
        found = json.loads(manifest.provenance.get("settings", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
