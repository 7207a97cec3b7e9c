"""A short run of the benchmark makes a whole report. Nothing is said about its figures: those are for `make bench`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import run

SMALL = ["model.channels=8", "model.head_channels=8", "model.vertical_layers=2", "model.horizontal_layers=1"]


def test_a_short_run_reports_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    flags = "--recipe digits-pixelcnn --batches 1 3 --repeats 1 --naive-seconds 0.1 --load-seconds 0.3 --rounds 1"
    nets = ["--set", *SMALL, "--row-dilations", "2", "4", "--pixelrnn", "digits-pixelrnn", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["run.py", *flags.split(), *nets])
    run.main()
    report = json.loads(out.with_suffix(".json").read_text())
    assert [row["batch"] for row in report["sampling"]] == [1, 3]
    for row in report["sampling"]:
        timed = ("sample_seconds", "pass_seconds", "ratio", "speedup_naive_onnx", "speedup_naive_torch")
        assert all(row[key] > 0 for key in timed)
    for other in ("dilated", "pixelrnn"):
        assert [row["batch"] for row in report[other]] == [1, 3]
        assert all(row[key] > 0 for row in report[other] for key in ("other_cpu_seconds", "cpu_seconds", "ratio"))
    assert report["through_server"]["ratio"] > 0
    for kind in ("continuous", "static"):
        assert report["poisson"][kind]["images_per_second"] > 0
        assert report["poisson"][kind]["p99"] >= report["poisson"][kind]["p50"] > 0
        assert report["poisson"][kind]["first_row_p50"] > 0
    assert report["fairness"]["singles"] > 0
    text = out.with_suffix(".md").read_text()
    assert "Poisson load" in text
    assert "dilated by 2, 4 rows" in text
    assert "`digits-pixelrnn`, beside the PixelCNN" in text
    assert out.with_suffix(".png").stat().st_size > 1000
