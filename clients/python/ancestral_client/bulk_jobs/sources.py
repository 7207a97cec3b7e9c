"""What the input of a job is, and how it is cut: Parquet, a folder of pictures, or an array in a file.

A source is a plain value, the same on every machine that sees the files; a reader of it belongs to one worker, and
holds a few hundred rows at a time. Rows are counted from 0.

Shapes: N rows of the input, H rows, W columns, C channels of an image.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pyarrow.types as types
from PIL import Image

from ancestral_client import files
from ancestral_client.bulk_jobs.cells import BadCell, Cell
from ancestral_client.replacing import FileProblem, reason

_PARQUET = (".parquet", ".parq", ".pq")
_ARRAY_NAMES = ("images", "image", "x")
_IMAGE_COLUMNS = ("image", "img", "picture", "pixels")
# Parquet is read through a buffer of so many bytes for each column, where pyarrow would take whole row groups at once.
_BUFFER_BYTES = 2**20
# What is kept of inputs without columns.
_NAMED, _NUMBERED = pa.schema([pa.field("path", pa.string())]), pa.schema([pa.field("row", pa.int64())])


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

    def open(self) -> Reader: ...


def source_of(path: Path, column: str | None, *, keep_images: bool) -> Source:
    """What there is to read. FileProblem where it is nothing of the kind, or empty."""
    if not path.exists():
        raise FileProblem(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    parquet, pictured, others = [], [], 0
    if path.is_dir():
        readable = _picture_suffixes()
        for file in _files(path):
            kind = file.suffix.lower()
            if kind in _PARQUET:
                # What begins with _ is what a writer of Parquet notes for itself; of cameras it is a picture.
                if not any(part.startswith("_") for part in file.relative_to(path).parts):
                    parquet.append(file)
            elif kind in readable:
                pictured.append(file)
            else:
                others += 1
        if parquet and pictured:
            raise FileProblem(
                f"{path}: holds Parquet ({_name(parquet[0], path)}) and pictures ({_name(pictured[0], path)}); which "
                "of them is meant? Give a folder with one kind"
            )
        if not parquet and not pictured:
            raise FileProblem(
                f"{path}: holds no Parquet and no pictures" + (f", but {others} other files" if others else "")
            )
    elif suffix in _PARQUET:
        parquet = [path]
    elif not files.is_array(path):
        pictured = [path]
    if parquet:
        return ParquetFiles.of(path, parquet, column, keep_images=keep_images, left_out=others)
    for wanted, option in ((column is not None, "--column"), (keep_images, "--keep-images")):
        if wanted:
            raise FileProblem(f"{option} is for Parquet, and {path} is none")
    if pictured:
        base = path if path.is_dir() else path.parent
        return Pictures(base, tuple(str(file.relative_to(base)) for file in pictured), others)
    return ArrayFile.of(path)


# ---- Parquet


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
            about = _stamp(path, self.folder)
            for start in range(0, held, rows):
                count = min(rows, held - start)
                mark = _digest([*about, f"{first + start} {start} {count}"])
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
        return Chunk(first, pa.Table.from_arrays(held, schema=source.kept), _cells(images, path.parent), name)

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
        if not _may_hold_images(schema.field(column).type):
            raise FileProblem(
                f"{path}: column {column!r} is {schema.field(column).type}; images are pictures' bytes, paths of "
                "pictures, raw pixels, or lists of numbers"
            )
        return column
    named = [name for name in _IMAGE_COLUMNS if name in schema.names and _may_hold_images(schema.field(name).type)]
    encoded = [field.name for field in schema if _holds_bytes(field.type)]
    if not named and len(encoded) != 1:
        which = f"both {' and '.join(encoded)} may be it" if encoded else "none is called image, or holds bytes"
        raise FileProblem(f"{path}: which column holds the images? {which}; say --column NAME; it has {there}")
    return str((named or encoded)[0])


def _plain(kind: Any) -> Any:
    """A type without what wraps it: dictionaries, and extensions, as Hugging Face and Ray have them."""
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    return _plain(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _holds_bytes(kind: Any) -> bool:
    kind = _plain(kind)
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return _is_bytes(kind)


def _may_hold_images(kind: Any) -> bool:
    kind = _plain(kind)
    if types.is_struct(kind):  # as Hugging Face has pictures; `bytes` may be of nulls, and so of no type
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    while _is_list(kind):
        kind = _plain(kind.value_type)
        if types.is_integer(kind) or types.is_floating(kind):
            return True
    return _is_bytes(kind) or _is_text(kind)


def _cells(column: Any, folder: Path) -> list[Cell]:
    """The cells of a column; paths are taken from the folder of their file."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if _is_list(column.type):
        return [_numbers(cell) if cell.is_valid else None for cell in column]
    return [_content(cell, folder) for cell in column.to_pylist()]


def _content(cell: Any, folder: Path) -> Cell:
    if isinstance(cell, dict):
        content = cell.get("bytes")
        return content if content is not None else _content(cell.get("path"), folder)
    if isinstance(cell, str) and "://" in cell:
        return BadCell(f"is {cell!r}; bulk work reads files: download it first")
    return folder / cell if isinstance(cell, str) else cell


def _numbers(cell: Any) -> Cell:
    """The numbers of a list, or of lists of lists of one length, which become the axes of an array."""
    values, counts = cell.values, [1]
    while _is_list(values.type):
        if len(pc.unique(pc.list_value_length(values))) > 1:
            return BadCell("holds lists of different lengths")
        counts.append(len(values))
        values = values.flatten()
    if values.null_count:
        return BadCell("holds numbers that are null")
    sizes = [inner // max(outer, 1) for outer, inner in pairwise([*counts, len(values)])]
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(sizes)


# ---- pictures


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
            about = [text for name in names for text in _stamp(self.folder / name, self.folder)]
            mark = _digest([*about, str(start)])
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


def _picture_suffixes() -> set[str]:
    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


# ---- arrays


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
        about = _stamp(self.path, self.path.parent)
        return [
            Part(i, start, min(rows, self.rows - start), 0, start, _digest([*about, f"{start} {rows}"]))
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
        return files.read_array(path, _ARRAY_NAMES)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileProblem(f"{path}: is no array that can be read: {reason(error)}") from error


# ---- files


def _files(folder: Path) -> Iterator[Path]:
    """Every file below the folder in a fixed order, hidden ones left out."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # by a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _stamp(path: Path, folder: Path) -> list[str]:
    try:
        found = path.stat()
    except OSError as error:
        raise FileProblem(f"{path}: cannot be read: {reason(error)}") from error
    return [os.fsencode(path.relative_to(folder)).hex(), str(found.st_size), str(found.st_mtime_ns)]


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
