"""The script trains, measures and prints a row per net. What the rows say takes a real training."""

from __future__ import annotations

import sys

import pytest

import depth_and_width


def test_a_row_for_each_net(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["depth_and_width.py", "--epochs", "1", "--nets", "1,1,8", "2,1,8"])
    depth_and_width.main()
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 1 × 1 × 8", "| 2 × 1 × 8"]
    assert {line.count("|") for line in (header, rule, *rows)} == {8}
    (_, bits, total, by_pixel), deeper = (row.split(" | ")[:4] for row in rows)
    assert 1.5 < float(bits) < 4.09
    # Another vertical layer costs something, and nothing pixel by pixel.
    assert float(deeper[2]) > float(total) > float(by_pixel)
    assert deeper[3] == by_pixel
