"""Pictures below a folder as the input of a job: a row for each, in the order of their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ancestral_client.bulk_jobs.sources.source import Chunk, Part, Reader, fingerprint, stamp
from ancestral_client.cells import Cell

# What is kept of them.
_NAMED = pa.schema([pa.field("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures below a folder, by their names; there is a row for each."""

    folder: Path
    names: tuple[str, ...]
    left_out: int
    kept: Any = _NAMED

    def parts(self, rows: int) -> list[Part]:
        found: list[Part] = []
        for start in range(0, len(self.names), rows):
            names = self.names[start : start + rows]
            about = [text for name in names for text in stamp(self.folder / name, self.folder)]
            mark = fingerprint([*about, str(start)])
            found.append(Part(len(found), start, len(names), start, 0, mark))
        return found

    def open(self) -> Reader:
        return self

    def chunks(self, part: Part, size: int) -> Iterator[Chunk]:
        for start in range(part.file, part.file + part.rows, size):
            names = self.names[start : min(start + size, part.file + part.rows)]
            # The bytes of a name need not be text.
            told = [name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in names]
            cells: list[Cell] = [self.folder / name for name in names]
            yield Chunk(start, pa.table([told], schema=self.kept), cells, partial(_picture_name, self.folder, names))


def _picture_name(folder: Path, names: Sequence[str], i: int) -> str:
    return f"row of {folder / names[i]}"


def picture_suffixes() -> set[str]:
    """The endings of all pictures that can be read here."""
    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
