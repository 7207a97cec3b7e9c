from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "isolation.py"


def test_a_short_run_prints_both_sides() -> None:
    # Small models are exported in seconds.
    flags = ["--encoder", "digits-vae", "--sampler", "digits-pixelcnn", "--seconds", "0.3", "--rounds", "1"]
    command = [sys.executable, str(SCRIPT), *flags]
    printed = subprocess.run(command, check=True, timeout=500, capture_output=True, text=True).stdout
    report = json.loads(printed)
    assert report["idle"]["calls"] > 0
    assert report["saturated"]["calls"] > 0
    assert report["ratios"] == [report["saturated"]["p99"] / report["idle"]["p99"]]
