"""A short run of the benchmark makes a whole report. Nothing is said about its figures: those are for `make bench`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import run
import sampling
from rig import Rig

# As mnist-pixelcnn, it is dilated.
SMALL = ["model.channels=8", "model.head_channels=8", "model.vertical_layers=2", "model.horizontal_layers=1"]
SMALL += ["model.row_dilations=[3]", "model.column_dilations=[3]"]


def test_a_short_run_reports_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    flags = "--recipe digits-pixelcnn --batches 1 3 --repeats 1 --naive-seconds 0.1 --load-seconds 0.3 --rounds 1"
    nets = ["--set", *SMALL, "--row-dilations", "2", "4", "--pixelrnn", "digits-pixelrnn", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["run.py", *flags.split(), *nets])
    beside, pairs = sampling.beside, []

    def noted(rig: Rig, other: Rig, batches: list[int], repeats: int) -> list[dict[str, Any]]:
        pairs.append([net.model.settings for net in (rig, other)])
        return beside(rig, other, batches, repeats)

    monkeypatch.setattr(sampling, "beside", noted)
    run.main()
    undilated, dilated = pairs[0]
    assert (undilated.dilations, dilated.dilations) == ([(1, 1)], [(2, 2)])
    assert dataclasses.replace(dilated, row_dilations=(1,), column_dilations=(1,)) == undilated
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
