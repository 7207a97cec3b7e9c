"""Parquet: images in, as Hugging Face's data sets have them, and results out. Needs pyarrow (`ancestral[bulk]`).

Shapes: N rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ancestral_client import pictures
from ancestral_client.cells import Cell
from ancestral_client.replacing import FileProblem, reason

SUFFIX = ".parquet"
"""What is written ends in it."""
SUFFIXES = (SUFFIX, ".parq", ".pq")
"""What is read ends in one of these."""
# Rows that are in memory at once.
_ROWS = 256


def check(name: object) -> None:
    """FileProblem unless Parquet can be read and written here; asked before a long call."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise FileProblem(
            f"{name}: needs {error.name}, which is not installed: pip install 'ancestral[bulk]'"
        ) from None


def pictures_of(path: Path) -> Iterator[tuple[int, Cell]]:
    """Row by row the cell of a file's column of encoded pictures."""
    check(path)
    import pyarrow
    import pyarrow.parquet

    from ancestral_client import columns

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column = _image_column(path, file.schema_arrow)
            for batch in file.iter_batches(_ROWS, columns=[column]):
                for cell in columns.cells(batch.column(0), path.parent):
                    yield row, cell
                    row += 1
    except (OSError, pyarrow.ArrowException) as error:
        where = f"row {row} cannot be read" if row else "is not Parquet"
        raise FileProblem(f"{path}: {where}: {reason(error)}") from error


def _image_column(path: Path, schema: Any) -> str:
    """The column of encoded pictures: bytes, or a struct with `bytes`, as Hugging Face has it."""
    from ancestral_client import columns

    usual = [entry.name for entry in schema if columns.holds_bytes_of_any_length(entry.type)]
    fitting = usual or [entry.name for entry in schema if columns.holds_bytes(entry.type)]
    # Raw pixels are no encoded picture, so their usual name is no reason to choose a column.
    chosen = [name for name in columns.IMAGE_NAMES if name in fitting and name != "pixels"] or fitting
    if not chosen:
        there = ", ".join(f"{entry.name} ({entry.type})" for entry in schema) or "nothing"
        raise FileProblem(f"{path}: has no column of encoded pictures (bytes, or a struct with bytes); it has {there}")
    return str(chosen[0])


def write(file: IO[bytes], arrays: Mapping[str, NDArray[Any] | None], files: Sequence[str] | None) -> None:
    """A row for each of N: `images` [N,H,W,C] as PNG in a column `image`, vectors as lists of a fixed size, a number as
    that of all rows; what has more axes as one flat list. UnclearPicture where images make no picture.
    """
    import pyarrow
    import pyarrow.parquet

    present = {name: array for name, array in arrays.items() if array is not None}
    rows = max(len(array) for array in present.values() if array.ndim)
    columns: dict[str, Any] = {} if files is None else {"file": pyarrow.array(list(files), pyarrow.string())}
    for name, array in present.items():
        if name == "images":
            columns["image"] = pyarrow.array([_png(image) for image in array], pyarrow.binary())
        elif array.ndim == 0:
            columns[name] = pyarrow.array(np.full(rows, array))
        elif array.ndim == 1:
            columns[name] = pyarrow.array(array)
        else:
            flat = np.ascontiguousarray(array).reshape(-1)
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), len(flat) // rows)
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _png(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    pictures.picture(image).save(file, "png")
    return file.getvalue()
