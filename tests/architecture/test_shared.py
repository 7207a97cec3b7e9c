from __future__ import annotations

from pathlib import Path

import pytest

from shared import Shared


def test_a_folder_is_made_once_and_a_failure_leaves_none(once: Shared) -> None:
    made: list[Path] = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("in the middle")

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "whole").touch()

    with pytest.raises(RuntimeError, match="in the middle"):
        once("shared test", fail)
    first, second = once("shared test", make), once("shared test", make)
    assert first == second
    assert len(made) == 1
    assert [path.name for path in first.iterdir()] == ["whole"]
