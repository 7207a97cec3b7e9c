"""A short run makes a whole report. Nothing is said about its figures: those are for `make bench-front-end`."""

from __future__ import annotations

from pathlib import Path

import front_end


def test_a_short_run_reports_every_figure(untrained_models: Path, tmp_path: Path) -> None:
    bundle = untrained_models / front_end.MODEL / "1"
    report = front_end.measure(bundle, tmp_path, [4], seconds=0.2, rounds=1, device="cpu")
    (row,) = report["single_calls"]
    assert row["concurrency"] == 4
    # One of each, with an echo before, between and after.
    before, between, after = row["echoes"]
    assert row["ratio"] == row["encode_rate"] / ((before + between) / 2)
    assert row["infer_ratio"] == row["infer_rate"] / ((between + after) / 2)
    assert row["mean_batch"] >= 1
    assert report["bulk"]["stream_images_per_second"] > 0
    assert "| 4 |" in front_end.markdown(report)
