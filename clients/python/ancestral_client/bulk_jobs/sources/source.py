"""What every kind of input is: a plain value, the same on every machine that sees the files, cut into parts.

A reader of it belongs to one worker, and holds a few hundred rows at a time. Rows are counted from 0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ancestral_client.cells import Cell
from ancestral_client.replacing import FileProblem, reason


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one file of the output is made of."""

    index: int
    first_row: int
    """In the whole input."""
    rows: int
    file: int
    """Which file of the input has the rows; of pictures, which is the first."""
    start: int
    """The first of the rows in that file."""
    fingerprint: str
    """Another one where the files have changed: by their names, sizes and times."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a part. `kept` are the columns that go on, of as many rows as there are `cells`."""

    first_row: int
    kept: Any
    cells: list[Cell]
    name: Callable[[int], str]
    """What to call one of them, counted from 0 in the chunk."""


class Reader(Protocol):
    """What one worker reads with."""

    def chunks(self, part: Part, size: int) -> Iterator[Chunk]:
        """The rows of a part in order, at most `size` at a time. FileProblem where the file cannot be read."""


class Source(Protocol):
    @property
    def kept(self) -> Any:
        """The schema of the columns that go on."""

    @property
    def left_out(self) -> int:
        """Files that were no input."""

    def parts(self, rows: int) -> list[Part]:
        """All of the input, at most so many rows each, always cut alike."""

    def open(self) -> Reader:
        """What a worker reads it with."""


def stamp(path: Path, folder: Path) -> list[str]:
    """What tells a file from another, and from itself before a change: its name in the folder, its size and time."""
    try:
        found = path.stat()
    except OSError as error:
        raise FileProblem(f"{path}: cannot be read: {reason(error)}") from error
    return [os.fsencode(path.relative_to(folder)).hex(), str(found.st_size), str(found.st_mtime_ns)]


def fingerprint(texts: Sequence[str]) -> str:
    """One short text for several, another one where one of them is another."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
