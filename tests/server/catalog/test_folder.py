"""What counts as a version, and what as a change of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import toybundle
from ancestral_server.catalog.folder import numbers, scan, stamp


def test_versions_are_plain_numbers_in_visible_folders(tmp_path: Path) -> None:
    for name in ("a/1", "a/12", "a/2", "a/0", "a/01", "a/-1", "a/x", "a/.3", "a/٣", f"a/{2**63}", ".b/1", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "7").write_text("a file")
    (tmp_path / "d").write_text("a file")
    assert sorted(scan(tmp_path).versions) == [("a", 1), ("a", 2), ("a", 12)]
    assert numbers(tmp_path, "a") == [1, 2, 12]
    assert numbers(tmp_path, "nobody") == []
    assert scan(tmp_path).unsure == frozenset()


def test_a_folder_that_cannot_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "away")


def test_a_model_that_cannot_be_read_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, "other")
    listdir = os.listdir

    def stale(path: Path) -> list[str]:
        if path.name == "tally":
            raise OSError(116, "Stale file handle")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", stale)
    contents = scan(tmp_path)
    assert contents.unsure == {"tally"}
    assert list(contents.versions) == [("other", 1)]


def test_a_stamp_tells_a_new_manifest_from_any_other_change(tmp_path: Path) -> None:
    folder = toybundle.write(tmp_path)
    first = stamp(folder)
    assert first.manifest is not None
    assert {name for name, *_ in first.files} == {"bundle.json", "encode.onnx", "golden.npz", "sample.onnx"}
    assert stamp(folder) == first

    (folder / "notes").mkdir()
    (folder / "notes" / "CARD.md").write_text("read me")
    assert stamp(folder) != first
    assert stamp(folder).manifest == first.manifest

    # Same size, same time: another file all the same.
    status = (folder / "bundle.json").stat()
    copy = folder / "copy"
    copy.write_bytes((folder / "bundle.json").read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.rename(folder / "bundle.json")
    assert stamp(folder).manifest != first.manifest

    for name in ("bundle.json", "encode.onnx", "golden.npz", "sample.onnx", "notes/CARD.md"):
        (folder / name).unlink()
    assert (stamp(folder).manifest, stamp(folder).files) == (None, ())
