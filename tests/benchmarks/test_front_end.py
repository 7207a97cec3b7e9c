from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "front_end.py"


def test_a_short_run_reports_every_figure(tmp_path: Path) -> None:
    flags = ["--seconds", "0.3", "--rounds", "1", "--concurrency", "1", "4", "--out", str(tmp_path / "front_end")]
    subprocess.run([sys.executable, str(SCRIPT), *flags], check=True, timeout=500)
    report = json.loads((tmp_path / "front_end.json").read_text())
    assert [row["concurrency"] for row in report["single_calls"]] == [1, 4]
    for row in report["single_calls"]:
        # One of each, with an echo before, between and after.
        before, between, after = row["echoes"]
        assert row["ratio"] == row["encode_rate"] / ((before + between) / 2)
        assert row["infer_ratio"] == row["infer_rate"] / ((between + after) / 2)
        assert row["mean_batch"] >= 1
    assert report["bulk"]["stream_images_per_second"] > 0
    assert "| 4 |" in (tmp_path / "front_end.md").read_text()
