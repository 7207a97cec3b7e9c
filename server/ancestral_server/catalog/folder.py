"""The folders of models as they are on disk: NAME/VERSION/bundle.json, and stamps that tell when a version has changed.

It is polled and not watched: notifications do not cross NFS or Kubernetes volumes, and a look costs microseconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from ancestral.bundle.manifest import MANIFEST
from ancestral.bundle.rules import MAX_MANIFEST_BYTES

# Name and version of a model.
Key: TypeAlias = tuple[str, int]

# Versions are int64 in the protos, so that nanoseconds since 1970 (19 digits) are one.
MAX_VERSION = 2**63 - 1
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
# What somebody may have meant as a version: 007, +1, 1.0, v2, digits of other scripts.
_NEARLY_A_NUMBER = re.compile(r"[vV]?[-+]?[\d._]*\d[\d._]*")
# A manifest is read again after so long although its status is as before: some file systems have no time of change of
# their own (sshfs, vfat, FUSE over object stores), and a rewrite in place with the old time looks like nothing there.
REREAD_SECONDS = 60.0
# And so is one that was written less than so long before it was read: two writes within a tick of the file system's
# clock (2 s on FAT, 10 ms at most on Linux's own) leave the same times.
YOUNG_SECONDS = 3.0
# How many entries of a folder that holds no version are looked into, to say what is wrong with it.
MOST_LOOKED_INTO = 16


@dataclass(frozen=True)
class Stamp:
    """What a version's folder holds.

    The manifest carries the hashes of all other files, so a bundle that serves has changed when its manifest has. One
    that was refused is worth another look when anything has changed: it may have been in the middle of being copied,
    or nobody was allowed to read it.
    """

    # Of the manifest: modified ns, bytes, inode, and the SHA-256 of its content, empty if it could not be read.
    manifest: tuple[int, int, int, bytes] | None = None
    # Path, modified ns, bytes and inode of every file.
    files: tuple[tuple[str, int, int, int], ...] = ()
    # When the status of each was changed last, ns, in the same order. A write sets it whatever time it then claims for
    # itself; but so do a change of permission and a hard link, which a backup may make.
    statuses: tuple[int, ...] = ()

    @property
    def written(self) -> object:
        """What only a copy, a move or a write changes."""
        return self.manifest, self.files


@dataclass(frozen=True)
class Contents:
    """Every version in the folder."""

    versions: dict[Key, Stamp] = field(default_factory=dict)
    # Models that are there but could not be read now, and why.
    unsure: dict[str, str] = field(default_factory=dict)
    # What is no version although somebody seems to have meant it as one, by path, and what to do about it.
    strays: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Read:
    """A manifest that was read."""

    # Its status then: modified ns, bytes, inode, changed ns.
    mark: tuple[int, ...]
    # Seconds since 1970.
    at: float
    digest: bytes

    def holds(self, now: float) -> bool:
        """Whether one with the same status can be taken to have the same content."""
        return 0 <= now - self.at < REREAD_SECONDS and self.mark[-1] / 1e9 < self.at - YOUNG_SECONDS


class Folder:
    """Looks at the folder, and remembers of each manifest what it held: it is read again only where that may be
    otherwise by now. A look at thousands of versions so costs little more than the status of their files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # By path.
        self._read: dict[str, _Read] = {}

    def scan(self, now: float) -> Contents:
        """Look at all models; OSError if the folder itself cannot be read. now: seconds since 1970."""
        contents = Contents()
        known, self._read = self._read, {}
        # Names below which a bundle lies without a version; that of the manifest where it lies in the folder itself.
        bare = []
        for name in sorted(name for name in os.listdir(self._root) if not name.startswith(".")):
            try:
                # Bytes that are no UTF-8 can be neither said to a caller nor asked for.
                name.encode()
                versions, others = _entries(self._root / name)
                for version in versions:
                    contents.versions[name, version] = self._stamp(self._root / name / str(version), known, now)
            except OSError as error:
                contents.unsure[name] = error.strerror or str(error)
            except UnicodeEncodeError:
                contents.unsure[name] = "its name is not UTF-8"
            else:
                if name == MANIFEST or any(entry.name == MANIFEST for entry in others):
                    bare.append(name)
                contents.strays.update(self._strays(name, versions, others))
        contents.strays.update(self._misplaced(bare, alone=not contents.versions))
        return contents

    def forget(self, key: Key) -> None:
        """Read its manifest again at the next look, since somebody else reads it now."""
        self._read.pop(str(self._root / key[0] / str(key[1]) / MANIFEST), None)

    def _stamp(self, folder: Path, known: dict[str, _Read], now: float) -> Stamp:
        files = _files(str(folder))
        status = files.get(MANIFEST)
        if status is None:
            return _stamp(files, b"")
        path = str(folder / MANIFEST)
        mark = (*_mark(status), status.st_ctime_ns)
        before = known.get(path)
        if before is None or before.mark != mark or not before.holds(now):
            try:
                before = _Read(mark, now, _digest(path, status))
            except OSError:  # what it held before is the best guess, if there is one
                before = before or _Read(mark, now, b"")
        self._read[path] = before
        return _stamp(files, before.digest)

    def _strays(self, name: str, versions: list[int], others: list[os.DirEntry[str]]) -> Iterator[tuple[str, str]]:
        """What lies in a model's folder, or in its place, that was meant to be a version."""
        for entry in others:
            if version_of(entry.name):
                yield f"{name}/{entry.name}", f"it is no folder: a version is a folder with a {MANIFEST}"
            elif _is_folder(entry) and (_NEARLY_A_NUMBER.fullmatch(entry.name) or _has_manifest(entry.path)):
                yield (
                    f"{name}/{entry.name}",
                    f"a version is a whole number from 1 to {MAX_VERSION}, in plain digits without a leading zero: "
                    f"rename the folder to the version in its {MANIFEST}",
                )
        if not versions:
            folders = filter(_is_folder, others)
            if any(_holds_a_version(entry.path) for entry in islice(folders, MOST_LOOKED_INTO)):
                here = self._root / name
                yield name, f"it holds models itself: give --models {here}, or move them one level up"

    def _misplaced(self, bare: list[str], *, alone: bool) -> Iterator[tuple[str, str]]:
        """Bundles that lie in no NAME/VERSION; alone: there is nothing else, so that --models may be what is wrong."""
        root = self._root.resolve()
        for name in bare:
            if alone and name == MANIFEST:
                yield ".", f"it is itself a version of a model: give --models {root.parent.parent}"
            elif alone and version_of(name):
                yield ".", f"it is the folder of one model: give --models {root.parent}"
            else:
                yield name, f"a bundle lies in NAME/VERSION, which its {MANIFEST} says: move its files there"


def together(found: Sequence[Contents]) -> Contents:
    """What several folders hold, the first first: a model that one has, or may have, hides those of its name below."""
    versions: dict[Key, Stamp] = {}
    unsure: dict[str, str] = {}
    for contents in found:
        taken = {name for name, _ in versions} | unsure.keys()
        versions |= {key: stamp for key, stamp in contents.versions.items() if key[0] not in taken}
        unsure |= {name: why for name, why in contents.unsure.items() if name not in taken}
    return Contents(versions, unsure)


def home(roots: Sequence[Path], name: str) -> Path:
    """Which of the folders a model's versions are taken from: the first that has, or may have, any; else the last."""
    return next((root for root in roots[:-1] if _may_have(root, name)), roots[-1])


def numbers(root: Path, name: str) -> list[int]:
    """The versions of one model, ascending; OSError if it is there and cannot be read.

    Hidden folders are those of writers at work; what is not a plain number from 1 on is not a version.
    """
    return [] if name.startswith(".") else _entries(root / name)[0]


def keys(roots: Sequence[Path]) -> list[Key]:
    """The versions of all models, by name and version; none of what cannot be read."""
    found: list[Key] = []
    for root in roots:
        with suppress(OSError):
            for name in os.listdir(root):
                with suppress(OSError, UnicodeEncodeError):
                    name.encode()
                    if home(roots, name) == root:
                        found += [(name, version) for version in numbers(root, name)]
    return sorted(found)


def stamp(folder: Path) -> Stamp:
    """What lies in a version's folder; files that vanish meanwhile or cannot be read are left out."""
    files = _files(str(folder))
    digest = b""
    if MANIFEST in files:
        with suppress(OSError):
            digest = _digest(str(folder / MANIFEST), files[MANIFEST])
    return _stamp(files, digest)


def version_of(name: str) -> int | None:
    """The version that a folder's name says, None if it says none."""
    return int(name) if _NUMBER.fullmatch(name) and int(name) <= MAX_VERSION else None


def _stamp(files: dict[str, os.stat_result], digest: bytes) -> Stamp:
    ordered = sorted(files.items())
    return Stamp(
        (*_mark(files[MANIFEST]), digest) if MANIFEST in files else None,
        tuple((path, *_mark(status)) for path, status in ordered),
        tuple(status.st_ctime_ns for _, status in ordered),
    )


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _files(folder: str, prefix: str = "") -> dict[str, os.stat_result]:
    """The status of each file by its path in the folder, without those that vanish meanwhile or cannot be read."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    found.update(_files(entry.path, f"{prefix}{entry.name}/"))
                else:
                    found[prefix + entry.name] = entry.stat()
    return found


def _digest(path: str, status: os.stat_result) -> bytes:
    """Of a manifest's content, empty where a server would not read it; OSError if it cannot be read now."""
    # A pipe could be read for ever.
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        return b""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _may_have(root: Path, name: str) -> bool:
    """Whether a model has a version there, or cannot be read now. It ends at the first: there may be thousands."""
    if name.startswith("."):
        return False
    try:
        with os.scandir(root / name) as entries:
            return any(version_of(entry.name) is not None and entry.is_dir() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _entries(folder: Path) -> tuple[list[int], list[os.DirEntry[str]]]:
    """The versions in a model's folder, ascending, and what else is there and not hidden."""
    versions, others = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                version = version_of(entry.name)
                if version is not None and entry.is_dir():
                    versions.append(version)
                elif not entry.name.startswith("."):
                    others.append(entry)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return sorted(versions), others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _holds_a_version(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return any(version_of(entry.name) and _has_manifest(entry.path) for entry in islice(entries, MOST_LOOKED_INTO))
    return False


def _has_manifest(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, MANIFEST))
