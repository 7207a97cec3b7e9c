"""The models folder as it is on disk: NAME/VERSION/bundle.json, and stamps that tell when a version has changed.

It is polled and not watched: notifications do not cross NFS or Kubernetes volumes, and a look costs microseconds.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ancestral_server.runtime.bundle import MANIFEST

# Name and version of a model.
Key: TypeAlias = tuple[str, int]

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Stamp:
    """What a version's folder holds: (path, modified ns, bytes, inode) of each file, those of the manifest apart.

    The manifest carries the hashes of all other files, so a bundle that serves has changed when its manifest has. One
    that was refused is worth another look when anything has changed: it may have been in the middle of being copied.
    """

    manifest: tuple[int, int, int] | None = None
    files: tuple[tuple[str, int, int, int], ...] = ()


@dataclass(frozen=True)
class Contents:
    """Every version in the folder; `unsure` are the models that are there but could not be read now."""

    versions: dict[Key, Stamp]
    unsure: frozenset[str] = frozenset()


def scan(root: Path) -> Contents:
    """Look at all models; OSError if the folder itself cannot be read."""
    versions: dict[Key, Stamp] = {}
    unsure = set()
    for name in sorted(os.listdir(root)):
        try:
            # Bytes that are no UTF-8 can be neither said to a caller nor asked for.
            name.encode()
            versions.update({(name, version): stamp(root / name / str(version)) for version in numbers(root, name)})
        except (OSError, UnicodeEncodeError):
            unsure.add(name)
    return Contents(versions, frozenset(unsure))


def numbers(root: Path, name: str) -> list[int]:
    """The versions of one model, ascending; OSError if it is there and cannot be read.

    Hidden folders are those of writers at work; what is not a plain number from 1 on is not a version.
    """
    if name.startswith("."):
        return []
    try:
        found = os.listdir(root / name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    plain = (int(entry) for entry in found if _NUMBER.fullmatch(entry))
    return sorted(number for number in plain if number < 2**63 and (root / name / str(number)).is_dir())


def stamp(folder: Path) -> Stamp:
    """What lies in a version's folder; files that vanish meanwhile or cannot be read are left out."""
    manifest = None
    files = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            relative = os.path.relpath(path, folder)
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            files.append((relative, *mark))
            if relative == MANIFEST:
                manifest = mark
    return Stamp(manifest, tuple(sorted(files)))
