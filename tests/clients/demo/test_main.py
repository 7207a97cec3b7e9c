"""What `ancestral-demo` says before the minutes that a training takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ancestral_demo import __main__


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("[/beta]", "[/beta]: cannot be made a folder: File exists"),
        ("[/beta]/demo", "[/beta]/demo: cannot be made a folder: Not a directory"),
        ("full", "full/report.json: is a folder; give the name of a file in it"),
    ],
)
def test_results_that_cannot_be_written_are_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("[").mkdir()
    Path("[/beta]").touch()
    Path("full/report.json").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["ancestral-demo", "run", "--models", "models", "--out", out])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", f"ancestral-demo: {said}\n")
    assert not Path("models").exists()
