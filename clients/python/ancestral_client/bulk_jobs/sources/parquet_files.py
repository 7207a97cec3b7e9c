"""Parquet files as the input of a job. Their columns go on beside the results.

Row groups may be large: a file is read through a small buffer, and on from where the last part ended.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from ancestral_client import columns
from ancestral_client.bulk_jobs.sources.source import Chunk, Part, Reader, fingerprint, stamp
from ancestral_client.replacing import FileProblem, reason

# Parquet is read through a buffer of so many bytes for each column, where pyarrow would take whole row groups at once.
_BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """Parquet files of one schema: their paths, rows, and what their folders' names (key=value) say."""

    folder: Path
    paths: tuple[Path, ...]
    rows: tuple[int, ...]
    folder_values: tuple[Mapping[str, Any], ...]
    column: str
    keep_images: bool
    kept: Any
    left_out: int

    @classmethod
    def of(
        cls, path: Path, paths: Sequence[Path], column: str | None, *, keep_images: bool, left_out: int
    ) -> ParquetFiles:
        rows, schemas = [], []
        for file in paths:
            with _parquet(file) as opened:
                rows.append(opened.metadata.num_rows)
                schemas.append(opened.schema_arrow.remove_metadata())
            twice = {name for name in schemas[-1].names if schemas[-1].names.count(name) > 1}
            if twice:
                raise FileProblem(f"{file}: has more than one column called {min(twice)}")
        if not sum(rows):
            raise FileProblem(f"{path}: has no rows")
        folder = path if path.is_dir() else path.parent
        values, fields = _of_folders(folder, paths)
        chosen = _image_column(paths[0], schemas[0], column)
        for file, schema in zip(paths, schemas, strict=True):
            _image_column(file, schema, chosen)
        own = [schema if keep_images else schema.remove(schema.get_field_index(chosen)) for schema in schemas]
        try:
            kept = pa.unify_schemas(own, promote_options="permissive")
        except pa.ArrowException as error:
            raise FileProblem(f"{path}: its files have columns of different types: {reason(error)}") from error
        for field in fields:
            if field.name not in kept.names:
                kept = kept.append(field)
        return cls(folder, tuple(paths), tuple(rows), tuple(values), chosen, keep_images, kept, left_out)

    def parts(self, rows: int) -> list[Part]:
        found: list[Part] = []
        first = 0
        for number, (path, held) in enumerate(zip(self.paths, self.rows, strict=True)):
            about = stamp(path, self.folder)
            for start in range(0, held, rows):
                count = min(rows, held - start)
                mark = fingerprint([*about, f"{first + start} {start} {count}"])
                found.append(Part(len(found), first + start, count, number, start, mark))
            first += held
        return found

    def open(self) -> Reader:
        return _ParquetReader(self)


class _ParquetReader:
    """Reads on in the file that is open where the next part lies ahead in it: row groups may be large."""

    def __init__(self, source: ParquetFiles) -> None:
        self._source = source
        self._file: Any = None
        self._number = -1
        self._starts: list[int] = []
        self._batches: Iterator[Any] = iter(())
        self._at = 0
        """The row that `_rest`, or the next batch, begins with."""
        self._rest: Any = None
        self._size = 0

    def chunks(self, part: Part, size: int) -> Iterator[Chunk]:
        path = self._source.paths[part.file]
        row, end = part.start, part.start + part.rows
        try:
            self._go_to(part.file, row, size)
            while row < end:
                batch = self._next()
                if self._at + len(batch) <= row:
                    self._at += len(batch)
                    continue
                mine = batch.slice(row - self._at, end - row)
                used = row - self._at + len(mine)
                self._rest, self._at = batch.slice(used), self._at + used
                yield self._chunk(path, mine, row, part)
                row += len(mine)
        except (OSError, pa.ArrowException) as error:
            self._number = -1
            raise FileProblem(f"{path}: cannot be read from row {row} on: {reason(error)}") from error

    def _go_to(self, number: int, row: int, size: int) -> None:
        """Have `_next` give the row's batch, or one before it in the same row group."""
        if self._number != number or self._size != size:
            self.close()
            self._file = pq.ParquetFile(self._source.paths[number], buffer_size=_BUFFER_BYTES, pre_buffer=False)
            about = self._file.metadata
            sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
            self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
            self._number, self._size, self._at, self._rest = number, size, -1, None
        group = max(i for i, start in enumerate(self._starts) if start <= row)
        if not self._starts[group] <= self._at <= row:
            groups = list(range(group, len(self._starts)))
            self._batches = self._file.iter_batches(size, row_groups=groups, use_threads=False)
            self._at, self._rest = self._starts[group], None

    def _next(self) -> Any:
        batch, self._rest = self._rest, None
        if batch is not None and len(batch):
            return batch
        found = next(self._batches, None)
        if found is None:
            raise OSError("the file has fewer rows than it says")
        return found

    def _chunk(self, path: Path, batch: Any, row: int, part: Part) -> Chunk:
        source = self._source
        images = batch.column(source.column)
        held = [self._kept(field, batch, source.folder_values[part.file]) for field in source.kept]
        name = partial(_row_name, path, source.column, row)
        first = part.first_row + row - part.start
        return Chunk(first, pa.Table.from_arrays(held, schema=source.kept), columns.cells(images, path.parent), name)

    def _kept(self, field: Any, batch: Any, of_folder: Mapping[str, Any]) -> Any:
        if field.name in batch.schema.names:
            column = batch.column(field.name)
            return column if column.type == field.type else column.cast(field.type)
        return pa.array([of_folder.get(field.name)] * len(batch), field.type)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _row_name(path: Path, column: str, first: int, i: int) -> str:
    return f"{path}: row {first + i}, column {column}"


def _parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise FileProblem(f"{path}: is no Parquet that can be read: {reason(error)}") from error


def _of_folders(path: Path, paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[Any]]:
    """What the names of folders like `year=2026` say of each file, and the columns that makes."""
    if not any("=" in part for file in paths for part in file.relative_to(path).parts[:-1]):
        return [{} for _ in paths], []
    try:
        found = pyarrow.dataset.dataset(
            [str(file) for file in paths],
            format="parquet",
            partitioning=pyarrow.dataset.partitioning(flavor="hive"),
            partition_base_dir=str(path),
        )
        parts = [fragment.partition_expression for fragment in found.get_fragments()]
        values = [dict(pyarrow.dataset.get_partition_keys(part)) for part in parts]
    except pa.ArrowException as error:
        raise FileProblem(f"{path}: its folders' names do not go together: {reason(error)}") from error
    names = dict.fromkeys(name for value in values for name in value)
    return values, [found.schema.field(name) for name in names]


def _image_column(path: Path, schema: Any, column: str | None) -> str:
    """The column of images: the one that is named, or the only one that can be meant. FileProblem if there is none."""
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if column is not None:
        if column not in schema.names:
            near = difflib.get_close_matches(column, schema.names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise FileProblem(f"{path}: has no column {column!r}; it has {there}{hint}")
        if not columns.may_hold_images(schema.field(column).type):
            raise FileProblem(
                f"{path}: column {column!r} is {schema.field(column).type}; images are pictures' bytes, paths of "
                "pictures, raw pixels, or lists of numbers"
            )
        return column
    named = [
        name
        for name in columns.IMAGE_NAMES
        if name in schema.names and columns.may_hold_images(schema.field(name).type)
    ]
    encoded = [field.name for field in schema if columns.holds_bytes(field.type)]
    if not named and len(encoded) != 1:
        which = f"both {' and '.join(encoded)} may be it" if encoded else "none is called image, or holds bytes"
        raise FileProblem(f"{path}: which column holds the images? {which}; say --column NAME; it has {there}")
    return str((named or encoded)[0])
