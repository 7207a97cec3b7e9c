"""The folder that a job writes: a file for each part, and `_bulk.json`, which says what the job is.

A part is there as a whole or not at all, and says in its own footer which job, and which state of the input, it is of.
So whoever goes on after an end of any kind finds what is done by looking at what is there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ancestral_client.bulk_jobs.job import Asked, Done, Job, name_of
from ancestral_client.bulk_jobs.sources import Part
from ancestral_client.files import write_json
from ancestral_client.replacing import FileProblem, reason

MANIFEST = "_bulk.json"
FOOTER = b"ancestral.bulk"
_PART = re.compile(r"part-\d{5,}\.parquet")
_PARTIAL = re.compile(r"\.partial-[0-9a-f]+")
_MOST_NAMED = 3  # files in a message


class Output:
    """The folder, from when it was looked at until `close`. FileProblem where it is not for this job."""

    def __init__(self, path: Path, source: Path, asked: Asked) -> None:
        self.path = path
        self._lock: int | None = None
        here, there = path.resolve(), source.resolve()
        if path.exists() and not path.is_dir():
            raise FileProblem(f"{path}: is a file; what is written is a folder of Parquet files")
        if not path.exists() and not path.parent.is_dir():
            raise FileProblem(f"{path}: there is no folder {path.parent}")
        if here == there or there in here.parents:
            raise FileProblem(f"{path}: lies in {source}, which is read; write elsewhere")
        if here in there.parents and path.exists():
            raise FileProblem(f"{path}: holds {source}, which is read; write elsewhere")
        self._asked = asked
        self.begun = self._manifest()
        """What the manifest says of a job that was begun here; None where there was none."""

    def _manifest(self) -> dict[str, Any] | None:
        place = self.path / MANIFEST
        try:
            found = json.loads(place.read_bytes())
            before, version = found["asked"], int(found["version"])
        except FileNotFoundError:
            self._refuse_others()
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileProblem(f"{place}: cannot be read, so it is not known what was begun there: {error}") from error
        now = asdict(self._asked)
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            told = ", ".join(f"{_flag(name)} {_told(before.get(name))}, not {_told(now[name])}" for name in differing)
            raise FileProblem(
                f"{self.path}: was begun with {told}; go on with the same arguments, or write to another folder"
            )
        return {**found, "version": version}

    def _refuse_others(self) -> None:
        if not self.path.is_dir():
            return
        others = sorted(name for name in os.listdir(self.path) if not _PARTIAL.fullmatch(name))
        if others:
            named = ", ".join(others[:_MOST_NAMED]) + (", ..." if len(others) > _MOST_NAMED else "")
            raise FileProblem(f"{self.path}: holds other files ({named}); give a new folder, or an empty one")

    def begin(self, job: Job, parts: Sequence[Part]) -> dict[int, Done]:
        """Make it this job's, whose parts these are: which of them are done. Files of what is no part now go."""
        try:
            self.path.mkdir(exist_ok=True)
            self._lock = _locked(self.path)
            self._manifest()  # as it is now that nobody else writes here
            done = {part.index: found for part in parts if (found := self._done(job, part)) is not None}
            names = {name_of(part) for part in parts if part.index in done}
            for name in os.listdir(self.path):
                if _PARTIAL.fullmatch(name) or (_PART.fullmatch(name) and name not in names):
                    (self.path / name).unlink()
        except OSError as error:
            raise FileProblem(f"{self.path}: cannot be written: {reason(error)}") from error
        self._write(job, {"finished": False})
        return done

    def _done(self, job: Job, part: Part) -> Done | None:
        """What became of a part, where its file is there, whole, and of what the input is now."""
        try:
            footer = pq.read_metadata(self.path / name_of(part))
            found = json.loads(footer.metadata[FOOTER])
            if found.pop("identity") == job.identity(part) and footer.num_rows == part.rows:
                return Done(**found)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            pass
        return None

    def finish(self, job: Job, done: Sequence[Done]) -> None:
        """Say that all of it is there, and clear away what workers left who were killed."""
        for name in os.listdir(self.path):
            if _PARTIAL.fullmatch(name):
                with suppress(OSError):
                    (self.path / name).unlink()
        rows, skipped = sum(part.rows for part in done), sum(part.skipped for part in done)
        self._write(job, {"finished": True, "rows": rows, "skipped": skipped})

    def _write(self, job: Job, state: dict[str, Any]) -> None:
        write_json(self.path / MANIFEST, {"asked": asdict(job.asked), "version": job.version, **state})

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def footer(job: Job, part: Part, done: Done) -> dict[bytes, str]:
    """What the file of a part says of itself."""
    return {FOOTER: json.dumps({"identity": job.identity(part), **asdict(done)})}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name not in ("role", "model", "input") else name.upper()


def _told(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _locked(folder: Path) -> int:
    """Keeps the folder for this process, until it ends; no lock where there are none, as on some network folders."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise FileProblem(f"{folder}: another job writes there now") from None
    except (ImportError, OSError):
        pass
    return handle
