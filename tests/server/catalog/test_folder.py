"""What counts as a version, what as a change of it, and what is said of the rest."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toybundle
from ancestral_server.catalog.folder import MAX_VERSION, REREAD_SECONDS, Contents, Folder, Stamp, numbers, stamp

# Long after whatever a test writes, and less than REREAD_SECONDS apart.
LATER, STILL_LATER = time.time() + 3600, time.time() + 3610


def scan(root: Path) -> Contents:
    return Folder(root).scan(time.time())


def test_versions_are_plain_numbers_in_visible_folders(tmp_path: Path) -> None:
    for name in ("a/1", "a/12", "a/2", f"a/{MAX_VERSION}", "a/.3", ".b/1", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "d").write_text("a file")
    contents = scan(tmp_path)
    assert sorted(contents.versions) == [("a", 1), ("a", 2), ("a", 12), ("a", MAX_VERSION)]
    assert (contents.unsure, contents.strays) == ({}, {})
    assert numbers(tmp_path, "a") == [1, 2, 12, MAX_VERSION]
    assert numbers(tmp_path, "nobody") == []


@pytest.mark.parametrize("name", ["0", "007", "-1", "+1", "1.0", "v2", "V2", "1_000", "１", "٣", str(MAX_VERSION + 1)])
def test_what_is_nearly_a_number_is_no_version_and_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / name).mkdir()
    contents = scan(tmp_path)
    assert list(contents.versions) == [("a", 1)]
    assert list(contents.strays) == [f"a/{name}"]
    assert "whole number from 1 to 9223372036854775807" in contents.strays[f"a/{name}"]


def bundle_under_another_name(root: Path) -> str:
    toybundle.write(root).rename(root / "tally" / "latest")
    return "tally/latest"


def file_in_place_of_a_version(root: Path) -> str:
    (root / "tally").mkdir()
    (root / "tally" / "1").write_text("a file")
    return "tally/1"


def link_to_nothing(root: Path) -> str:
    (root / "tally").mkdir()
    (root / "tally" / "1").symlink_to(root / "nowhere")
    return "tally/1"


def bundle_without_a_version(root: Path) -> str:
    made = toybundle.write(root / ".made")
    made.rename(root / "tally")
    return "tally"


def copied_into_itself(root: Path) -> str:
    toybundle.write(root / "models")
    return "models"


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (bundle_under_another_name, "rename the folder to the version in its bundle.json"),
        (file_in_place_of_a_version, "a version is a folder with a bundle.json"),
        (link_to_nothing, "a version is a folder with a bundle.json"),
        (bundle_without_a_version, "a bundle lies in NAME/VERSION, which its bundle.json says: move its files there"),
        (copied_into_itself, "give --models ROOT/models, or move them one level up"),
    ],
)
def test_what_was_meant_to_be_a_version_is_named_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], str], remedy: str
) -> None:
    path = make(tmp_path)
    contents = scan(tmp_path)
    assert contents.versions == {}
    assert list(contents.strays) == [path]
    assert remedy.replace("ROOT", str(tmp_path)) in contents.strays[path]


def test_a_folder_given_too_deep_is_named_with_the_one_to_give(tmp_path: Path) -> None:
    version = toybundle.write(tmp_path)
    toybundle.write(tmp_path, version=2)
    for given in (version, version.parent):
        assert scan(given).versions == {}
        assert list(scan(given).strays) == ["."]
        assert scan(given).strays["."].endswith(f"give --models {tmp_path.resolve()}")


def test_beside_others_a_bundle_in_the_wrong_place_does_not_blame_the_folder(tmp_path: Path) -> None:
    folder = toybundle.write(tmp_path)
    shutil.copytree(folder, tmp_path / "7")
    shutil.copy(folder / "bundle.json", tmp_path)
    contents = scan(tmp_path)
    assert list(contents.versions) == [("tally", 1)]
    assert set(contents.strays) == {"7", "bundle.json"}
    assert all("move its files there" in why for why in contents.strays.values())


def test_other_files_are_nobodys_mistake(tmp_path: Path) -> None:
    folder = toybundle.write(tmp_path)
    for path in ("README.md", "tally/README.md", "tally/notes/a.txt", "papers/drafts/one/two.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("text")
    shutil.copytree(folder, tmp_path / "tally" / ".007")
    assert scan(tmp_path).strays == {}


def test_a_folder_that_cannot_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "away")


def test_a_model_that_cannot_be_read_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, "other")
    scandir = os.scandir

    def stale(path: Path) -> object:
        if Path(path).name == "tally":
            raise OSError(116, "Stale file handle")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", stale)
    contents = scan(tmp_path)
    assert contents.unsure == {"tally": "Stale file handle"}
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
    assert stamp(folder) == Stamp()


def rewrite(path: Path) -> None:
    """Change what a file holds, in place, and nothing that it says about itself: not its size, time or inode."""
    status = path.stat()
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content[:-2] + b" }" if content.endswith(b"\n}") else content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (status.st_size, status.st_mtime_ns, status.st_ino)


def test_a_manifest_rewritten_in_place_with_its_old_time_is_another(tmp_path: Path) -> None:
    path = toybundle.write(tmp_path) / "bundle.json"
    folder = Folder(tmp_path)
    first = folder.scan(LATER).versions["tally", 1]
    rewrite(path)
    second = folder.scan(STILL_LATER).versions["tally", 1]
    assert second.manifest != first.manifest
    assert second.manifest == stamp(path.parent).manifest
    # The other files are as they were; the last change of status tells that one was written.
    assert (second.files, second.written) == (first.files, (second.manifest, first.files))
    rewrite(path.parent / "encode.onnx")
    third = folder.scan(STILL_LATER).versions["tally", 1]
    assert third.written == second.written
    assert third != second


def test_a_change_of_permission_changes_nothing_that_was_written(tmp_path: Path) -> None:
    path = toybundle.write(tmp_path) / "bundle.json"
    folder = Folder(tmp_path)
    first = folder.scan(LATER).versions["tally", 1]
    path.chmod(0o600)
    os.link(path, tmp_path / ".backup")
    second = folder.scan(STILL_LATER).versions["tally", 1]
    assert second.written == first.written
    assert second != first


def test_manifests_are_read_where_they_may_have_changed_and_else_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toybundle.write(tmp_path) / "bundle.json"
    reads, whole = 0, open

    def counted(*args: Any, **how: Any) -> Any:
        nonlocal reads
        reads += 1
        return whole(*args, **how)

    monkeypatch.setattr("builtins.open", counted)
    folder = Folder(tmp_path)

    def reads_at(now: float) -> int:
        nonlocal reads
        reads = 0
        folder.scan(now)
        return reads

    # Just written: another write in the same tick of a clock would not show.
    written = path.stat().st_ctime
    assert [reads_at(written + seconds) for seconds in (0.1, 1, 2)] == [1, 1, 1]
    assert [reads_at(LATER), reads_at(STILL_LATER), reads_at(LATER + REREAD_SECONDS - 1)] == [1, 0, 0]
    # A file system without a time of change of its own would never say so.
    assert [reads_at(LATER + REREAD_SECONDS), reads_at(LATER + REREAD_SECONDS + 1)] == [1, 0]
    path.chmod(0o600)
    assert [reads_at(LATER + REREAD_SECONDS + 2), reads_at(LATER + REREAD_SECONDS + 3)] == [1, 0]
    # A clock that was put back says nothing about the age of what was read; nor does one count that others read anew.
    assert [reads_at(LATER - 100), reads_at(LATER - 99)] == [1, 0]
    folder.forget(("tally", 1))
    assert reads_at(LATER - 98) == 1


def test_a_manifest_that_cannot_be_read_for_a_moment_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toybundle.write(tmp_path) / "bundle.json"
    folder = Folder(tmp_path)
    first = folder.scan(LATER).versions["tally", 1]
    path.chmod(0o600)

    def refused(*args: Any, **how: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        assert folder.scan(STILL_LATER).versions["tally", 1].manifest == first.manifest
        assert stamp(path.parent).manifest == (*(first.manifest or ())[:3], b"")
    rewrite(path)
    assert folder.scan(STILL_LATER + 1).versions["tally", 1].manifest == stamp(path.parent).manifest != first.manifest
