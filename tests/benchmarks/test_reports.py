from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

import reports


def test_reports_are_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    reports.prepare(argparse.ArgumentParser(), out, ".png")
    assert os.listdir(out.parent) == []
    reports.write(out, "# Report\n", {"figure": 1})
    assert out.with_suffix(".md").read_text() == "# Report\n"
    assert json.loads(out.with_suffix(".json").read_text()) == {"figure": 1}
    assert sorted(os.listdir(out.parent)) == ["report.json", "report.md"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file/report", "--out: file: cannot be made a folder: File exists"),
        ("file/folder/report", "--out: file/folder: cannot be made a folder: Not a directory"),
        ("taken", "--out: taken.json: is a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("taken.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        reports.prepare(argparse.ArgumentParser(), Path(out))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
