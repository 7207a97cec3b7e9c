"""The script trains, measures and prints a row per net. What the rows say takes a real training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("depth_and_width.py")


def test_a_row_for_each_net() -> None:
    command = [sys.executable, str(SCRIPT), "--epochs", "1", "--nets", "1,1,8", "2,1,8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    header, rule, *rows = done.stdout.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 1 × 1 × 8", "| 2 × 1 × 8"]
    assert {line.count("|") for line in (header, rule, *rows)} == {8}
    (_, bits, total, by_pixel), deeper = (row.split(" | ")[:4] for row in rows)
    assert 1.5 < float(bits) < 4.09
    # Another vertical layer costs something, and nothing pixel by pixel.
    assert float(deeper[2]) > float(total) > float(by_pixel)
    assert deeper[3] == by_pixel
