"""What a column of pictures may look like, and what a Parquet file may be called: as `ancestral bulk` reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ancestral_client import items
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem

LEVELS = np.arange(12, dtype=np.uint8).reshape(4, 3) * 20


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(LEVELS).save(file, "png")
    return file.getvalue()


PICTURE = png()
COLUMNS: dict[str, Any] = {
    "bytes": pa.array([PICTURE], pa.binary()),
    "large": pa.array([PICTURE], pa.large_binary()),
    "of one size": pa.array([PICTURE], pa.binary(len(PICTURE))),
    "a dictionary": pa.array([PICTURE], pa.binary()).dictionary_encode(),
    "a struct": pa.array([{"bytes": PICTURE, "path": None}]),
    "a file beside it": pa.array(
        [{"bytes": None, "path": "one.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    ),
}


@pytest.mark.parametrize("suffix", [".parquet", ".parq", ".PQ"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_pictures_in_a_column(kind: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(PICTURE)
    path = tmp_path / f"in{suffix}"
    pq.write_table(pa.table({"id": [1], "image": COLUMNS[kind]}), path)
    read = items.read([path], Fit("toy", (4, 3, 1)))
    assert np.array_equal(read.array, LEVELS[np.newaxis, :, :, np.newaxis])
    assert read.names == [f"{path}: row 0"]


@pytest.mark.parametrize(
    "other",
    [
        {"sha": pa.array([b"0123456789abcdef"], pa.binary(16))},
        {"image": pa.array([b"0123456789ab"], pa.binary(12))},
        {"id": pa.array([b"one"], pa.binary()).dictionary_encode()},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_bytes_that_are_no_picture_stand_before_one(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({**other, "photo": COLUMNS["bytes"]}), path)
    assert np.array_equal(items.read([path], Fit("toy", (4, 3, 1))).array, LEVELS[np.newaxis, :, :, np.newaxis])


def test_a_column_of_raw_pixels_is_not_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"photo": COLUMNS["bytes"], "pixels": pa.array([LEVELS.tobytes()])}), path)
    assert np.array_equal(items.read([path], Fit("toy", (4, 3, 1))).array, LEVELS[np.newaxis, :, :, np.newaxis])


def test_a_file_that_a_cell_names_and_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"image": COLUMNS["a file beside it"]}), path)
    with pytest.raises(FileProblem) as refused:
        items.read([path], Fit("toy", (4, 3, 1)))
    assert (
        str(refused.value)
        == f"{path}: row 0: names {tmp_path / 'one.png'}, and there is no such file; --on-error skip goes on without it"
    )
