"""Gives a bundle another place: verified where it lies, copied aside with its new name and number, renamed once."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ancestral.bundle.manifest import MANIFEST, NoManifest, parse
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.verify import sha256, verify_bundle
from ancestral_exporter.bundle.write import LAST_VERSION, check_name, next_version, place, temporary
from ancestral_exporter.card import CARD
from ancestral_exporter.errors import ExporterError, UsageError

# Where a promoted bundle came from: a key of its provenance.
_ORIGIN = "promoted_from"


@dataclass(frozen=True)
class Promoted:
    """Where a bundle lies now, and whether it lay there before."""

    path: Path
    already: bool


def promote_bundle(source: Path, models: Path, *, name: str | None = None, version: int | None = None) -> Promoted:
    """Copy the bundle in the folder `source` to `models/name/version`: by default its own name, the next free number.

    Name and number change in the manifest, and the name in the heading of its card; all else stays byte for byte.
    Raises UsageError for a source, a name or a number that cannot be, or a number that another bundle has; VerifyError
    where the source fails its verification.
    """
    manifest = read_manifest(source)
    _check_places(source, models, given=name is not None or version is not None)
    if version is not None and not 1 <= version <= LAST_VERSION:
        raise UsageError(f"version must be 1 to {LAST_VERSION}, not {version}")
    renamed = manifest.name if name is None else name
    check_name(renamed)
    check_source(source)
    home = models / renamed
    home.mkdir(parents=True, exist_ok=True)
    if version is not None and (home / str(version)).exists():
        return _already(home / str(version), manifest)
    with temporary(home) as folder:
        copy_files(source, folder, manifest)
        _rename(folder, manifest, renamed)
        try:
            return Promoted(place(folder, home, manifest, version), already=False)
        except FileExistsError as error:  # taken while we copied
            return _already(Path(error.filename), manifest)


def check_source(source: Path) -> None:
    """Raises ExporterError unless a bundle is what it should be, wherever it lies."""
    report = verify_bundle(source, placed=False)
    if not report.ok:
        more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
        first = " ".join(str(report.failures[0]).split())
        raise ExporterError(f"{source}: verification failed: {first}{more}; `ancestral-exporter verify` tells all")


def _check_places(source: Path, models: Path, *, given: bool) -> None:
    here, there = source.resolve(), models.resolve()
    if there.is_relative_to(here):
        raise UsageError(f"{models}: lies in the bundle {source}, which must stay as it is")
    if here.is_relative_to(there) and not given:
        raise UsageError(f"{source}: lies in {models} already; say what it shall be there with --as or --version")


def copy_files(source: Path, folder: Path, manifest: bundle_pb2.Bundle) -> None:
    """Copy the files of the manifest. Raises ExporterError where one is not what was verified any more."""
    for file in manifest.files:
        target = folder / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file.path, target)
        except OSError as error:  # which names the source where the target's disk is full
            raise ExporterError(
                f"{source / file.path}: cannot be copied to {folder.parent}: {error.strerror}"
            ) from error
        if sha256(target) != file.sha256:
            raise ExporterError(f"{source / file.path}: changed while it was copied; try again when it is at rest")


def _rename(folder: Path, manifest: bundle_pb2.Bundle, name: str) -> None:
    """Write the new name into the copy's card and into the manifest, which also keeps the old name and number."""
    card = next((file for file in manifest.files if file.path == CARD), None)
    if card is not None and name != manifest.name:
        path = folder / CARD
        heading = re.compile(rb"\A# " + re.escape(manifest.name.encode()) + rb"(?=\r?\n|\Z)")
        path.write_bytes(heading.sub(b"# " + name.encode(), path.read_bytes()))
        card.sha256, card.size_bytes = sha256(path), path.stat().st_size
    manifest.provenance[_ORIGIN] = f"{manifest.name} version {manifest.version}"
    manifest.name = name


def _already(path: Path, manifest: bundle_pb2.Bundle) -> Promoted:
    """The version that is there, if it is the same model; UsageError if it is another, which is never replaced."""
    try:
        there = parse((path / MANIFEST).read_bytes())
    except (OSError, NoManifest):
        there = bundle_pb2.Bundle()
    if _essence(there) != _essence(manifest):
        free = next_version(path.parent)
        raise UsageError(f"{path}: another bundle is there, and none is replaced; the next free version is {free}")
    return Promoted(path, already=True)


def _essence(manifest: bundle_pb2.Bundle) -> bundle_pb2.Bundle:
    """The manifest without what a promotion changes."""
    same = bundle_pb2.Bundle()
    same.CopyFrom(manifest)
    same.ClearField("name")
    same.ClearField("version")
    same.provenance.pop(_ORIGIN, None)
    kept = [file for file in same.files if file.path != CARD]
    del same.files[:]
    same.files.extend(kept)
    return same
