"""`make bulk-check` in short, and that it would see a fault. Ray is started only here in the suite: it takes long."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import run_bulk
import toybundle
from running import ServerProcess

SHAPE = (toybundle.HEIGHT, toybundle.WIDTH, 1)


def test_on_ray_each_row_is_there_once_whoever_dies(tmp_path: Path) -> None:
    """What dies when depends on the machine, and what memory does shows in minutes: neither is judged here."""
    toybundle.write(tmp_path / "models")
    source = tmp_path / "in.parquet"
    run_bulk.write_images(source, 400, SHAPE)
    report = run_bulk.killed(source, tmp_path / "out", tmp_path / "models", "tally", "ray", part_rows=20)
    assert report["failures"] == []
    assert (report["rows"], report["skipped"], report["files"]) == (400, 0, 20)


@pytest.mark.parametrize("fault", ["missing", "twice", "other"])
def test_rows_that_are_missing_or_twice_or_wrong_are_seen(
    toy_server: ServerProcess, tmp_path: Path, fault: str
) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    run_bulk.write_images(source, 60, SHAPE)
    running = run_bulk.Running(source, out, "tally", toy_server.address, "local", part_rows=20)
    assert running.end()["failures"] == []
    assert run_bulk.check(source, out, toy_server.address, "tally") == []
    last = out / "part-00002.parquet"
    match fault:
        case "missing":
            last.unlink()
        case "twice":
            (out / "part-00003.parquet").write_bytes(last.read_bytes())
        case "other":
            table = pq.read_table(last)
            means = table.column("mean").take([1, 0, *range(2, 20)])
            pq.write_table(table.set_column(table.schema.get_field_index("mean"), "mean", means), last)
    assert len(run_bulk.check(source, out, toy_server.address, "tally")) == 1
