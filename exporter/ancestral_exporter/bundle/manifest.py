"""Reads the manifest of a bundle that somebody names."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.verify import MANIFEST
from ancestral_exporter.errors import UsageError


def read_manifest(folder: Path) -> bundle_pb2.Bundle:
    """The manifest of the bundle in a folder. Raises UsageError that says what the folder is instead."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        return json_format.Parse(text, bundle_pb2.Bundle())
    except FileNotFoundError:
        within = sorted(str(path.parent.relative_to(folder)) for path in folder.glob(f"*/{MANIFEST}"))
        hint = f"; it is a model, pass one of its versions: {', '.join(within)}" if within else ""
        raise UsageError(f"{folder}: is not a bundle, since it has no {MANIFEST}{hint}") from None
    except (UnicodeDecodeError, json_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{folder}: is not a bundle, since its {MANIFEST} cannot be read: {reason}") from error
