"""An array in a file as the input of a job: a row for each of its images.

Shapes: N rows of the input, H rows, W columns, C channels of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ancestral_client import files
from ancestral_client.bulk_jobs.sources.source import Chunk, Part, Reader, fingerprint, stamp
from ancestral_client.replacing import FileProblem, reason

# What is kept of it.
_NUMBERED = pa.schema([pa.field("row", pa.int64())])


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """The array in a .npy file, which is read piece by piece, or in a .npz file, which is read as a whole."""

    path: Path
    rows: int
    left_out: int = 0
    kept: Any = _NUMBERED

    @classmethod
    def of(cls, path: Path) -> ArrayFile:
        array = _array(path)
        if array.ndim < 2:
            raise FileProblem(f"{path}: has shape {list(array.shape)}; must be [N,H,W,C], or [N,H,W] for grey")
        if not array.size:
            raise FileProblem(f"{path}: has shape {list(array.shape)}: no image in it")
        return cls(path, len(array))

    def parts(self, rows: int) -> list[Part]:
        about = stamp(self.path, self.path.parent)
        return [
            Part(i, start, min(rows, self.rows - start), 0, start, fingerprint([*about, f"{start} {rows}"]))
            for i, start in enumerate(range(0, self.rows, rows))
        ]

    def open(self) -> Reader:
        return _ArrayReader(self.path, _array(self.path))


@dataclass(frozen=True, slots=True)
class _ArrayReader:
    path: Path
    array: Any

    def chunks(self, part: Part, size: int) -> Iterator[Chunk]:
        for row in range(part.start, part.start + part.rows, size):
            end = min(row + size, part.start + part.rows)
            rows = pa.table([pa.array(range(row, end), pa.int64())], schema=_NUMBERED)
            yield Chunk(row, rows, list(np.asarray(self.array[row:end])), partial(_array_name, self.path, row))


def _array_name(path: Path, first: int, i: int) -> str:
    return f"{path}: row {first + i}"


def _array(path: Path) -> Any:
    """The array in a file; that of a .npy is mapped into memory."""
    if path.suffix.lower() == ".npz":
        return files.read_array(path, files.IMAGE_ARRAYS)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileProblem(f"{path}: is no array that can be read: {reason(error)}") from error
