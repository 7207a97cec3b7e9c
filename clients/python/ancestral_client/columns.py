"""Columns of Parquet that hold images: which may, and what their cells are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from ancestral_client.cells import BadCell, Cell

IMAGE_NAMES = ("image", "img", "picture", "pixels")
"""What a column of images is mostly called; an earlier name wins."""


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


def holds_bytes(kind: Any) -> bool:
    """Whether a type is bytes, or a struct of `bytes` and `path`, as Hugging Face has pictures."""
    return _is_bytes(_content_type(_plain(kind)))


def holds_bytes_of_any_length(kind: Any) -> bool:
    """Whether a type is such bytes as they are mostly stored. What has one length for all is rather raw pixels, or a
    hash, and what is wrapped mostly something else that is repeated.
    """
    content = _content_type(kind)
    return bool(types.is_binary(content) or types.is_large_binary(content))


def _content_type(kind: Any) -> Any:
    """The type of `bytes` in a struct that has them; of any other it is that itself."""
    return kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind


def may_hold_images(kind: Any) -> bool:
    """Whether cells of a type may be images: pictures' bytes or paths, raw pixels, or lists of numbers."""
    kind = _plain(kind)
    if types.is_struct(kind):  # as Hugging Face has pictures; `bytes` may be of nulls, and so of no type
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    while _is_list(kind):
        kind = _plain(kind.value_type)
        if types.is_integer(kind) or types.is_floating(kind):
            return True
    return _is_bytes(kind) or _is_text(kind)


def cells(column: Any, folder: Path) -> list[Cell]:
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
        return BadCell(f"is {cell!r}, and only files are read: download it first")
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
