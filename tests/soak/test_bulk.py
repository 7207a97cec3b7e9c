"""`make bulk-check` in short, and that it would see a fault. Ray is started only here in the suite: it takes long."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

import run_bulk
import toybundle
from running import ServerProcess

SHAPE = (toybundle.HEIGHT, toybundle.WIDTH, 1)
# The toy's sums depend on the batch in their last bits.
TOLERANCE = 1e-5


def test_on_ray_each_row_is_there_once_whoever_dies(tmp_path: Path) -> None:
    """What dies when depends on the machine, and what memory does shows in minutes: neither is judged here."""
    toybundle.write(tmp_path / "models")
    source = tmp_path / "in.parquet"
    run_bulk.write_images(source, 400, SHAPE)
    report = run_bulk.killed(source, tmp_path / "out", tmp_path / "models", "tally", "ray", 20, TOLERANCE)
    assert report["failures"] == []
    assert (report["rows"], report["skipped"], report["files"]) == (400, 0, 20)


def test_rows_that_are_missing_or_twice_or_wrong_are_seen(toy_server: ServerProcess, tmp_path: Path) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    run_bulk.write_images(source, 60, SHAPE)
    assert run_bulk.Running(source, out, "tally", toy_server.address, "local", part_rows=20).end()["failures"] == []

    def problems() -> int:
        return len(run_bulk.check(source, out, toy_server.address, "tally", TOLERANCE))

    assert problems() == 0
    last, again = out / "part-00002.parquet", out / "part-00003.parquet"
    table = pq.read_table(last)
    again.write_bytes(last.read_bytes())
    assert problems() == 1, "twice"
    again.unlink()
    means = table.column("mean").take([1, 0, *range(2, 20)])
    pq.write_table(table.set_column(table.schema.get_field_index("mean"), "mean", means), last)
    assert problems() == 1, "another's"
    last.unlink()
    assert problems() == 1, "missing"
