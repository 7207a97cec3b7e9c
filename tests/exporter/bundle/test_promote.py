"""A promoted bundle is whole under its new name and number, and nothing that was there is ever replaced."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from google.protobuf import json_format

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import verify_bundle, write
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.errors import ExporterError, UsageError
from waiting import PATIENCE

T = TypeVar("T")


def manifest_of(bundle: Path) -> bundle_pb2.Bundle:
    return json_format.Parse((bundle / "bundle.json").read_text(), bundle_pb2.Bundle())


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_the_name_and_the_number_change_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    models = tmp_path / "models"
    done = promote_bundle(bundle, models, name="small", version=7)
    assert (done.path, done.already) == (models / "small" / "7", False)
    assert verify_bundle(done.path).ok
    manifest = manifest_of(done.path)
    assert (manifest.name, manifest.version) == ("small", 7)
    assert manifest.provenance == {"seed": "0", "promoted_from": "tiny version 1"}
    assert (done.path / "CARD.md").read_text() == "# small\n"
    changed = {"bundle.json", "CARD.md"}
    assert {k: v for k, v in contents(done.path).items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert contents(bundle) == before
    assert [path.name for path in (models / "small").iterdir()] == ["7"]  # no temporary folder stays


def test_by_default_it_keeps_its_name_and_takes_the_next_number(bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert promote_bundle(bundle, models).path == models / "tiny" / "1"
    assert (models / "tiny" / "1" / "CARD.md").read_text() == "# tiny\n"
    (models / "tiny" / "9").mkdir()
    assert promote_bundle(bundle, models).path == models / "tiny" / "10"
    (models / "tiny" / "99999999999999999999").mkdir()  # no version, being above 2^63
    assert promote_bundle(bundle, models).path == models / "tiny" / "11"
    assert promote_bundle(bundle, models, version=2**63 - 1).path.name == str(2**63 - 1)
    with pytest.raises(UsageError, match="holds version 9223372036854775807, and there is none above it"):
        promote_bundle(bundle, models)


def test_a_copy_that_nobody_would_serve_is_mended(bundle: Path, tmp_path: Path) -> None:
    """What `cp -r tiny/1 elsewhere` leaves does not lie where its manifest says."""
    moved = bundle.rename(tmp_path / "copy of 1")
    assert not verify_bundle(moved).ok
    assert verify_bundle(promote_bundle(moved, tmp_path / "models").path).ok


def test_back_to_an_old_version(bundle: Path, tmp_path: Path) -> None:
    models = bundle.parent.parent
    with pytest.raises(UsageError, match=r"tiny/1: lies in .* already; say what it shall be there with --as or --ver"):
        promote_bundle(bundle, models)
    done = promote_bundle(bundle, models, version=3)
    assert done.path == models / "tiny" / "3"
    assert verify_bundle(done.path).ok


def test_a_version_that_is_there_stays(bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = promote_bundle(bundle, models, name="small", version=1).path
    again = promote_bundle(bundle, models, name="small", version=1)
    assert (again.path, again.already) == (first, True)
    assert promote_bundle(first, tmp_path / "other", version=1).path.parent.name == "small"
    onto_itself = promote_bundle(first, models, version=1)
    assert onto_itself.already
    shutil.copytree(first, models / "small" / "2")
    (models / "small" / "2" / "bundle.json").write_text("somebody else's")
    before = contents(models / "small" / "2")
    with pytest.raises(UsageError, match=r"small/2: another bundle is there, .* the next free version is 3"):
        promote_bundle(bundle, models, name="small", version=2)
    assert contents(models / "small" / "2") == before


def test_promotions_at_once_get_versions_of_their_own(bundle: Path, tmp_path: Path) -> None:
    """All think of the same number: they meet after each has looked, before any has renamed."""
    paths, problems = at_once(lambda: promote_bundle(bundle, tmp_path / "models").path, 4)
    assert not problems
    assert sorted(path.name for path in paths) == ["1", "2", "3", "4"]
    assert all(verify_bundle(path).ok for path in paths)


def test_promotions_at_once_to_one_number_are_one(bundle: Path, tmp_path: Path) -> None:
    done, problems = at_once(lambda: promote_bundle(bundle, tmp_path / "models", version=5), 4)
    assert not problems
    assert sorted(entry.already for entry in done) == [False, True, True, True]
    assert [path.name for path in (tmp_path / "models" / "tiny").iterdir()] == ["5"]


def at_once(call: Callable[[], T], count: int) -> tuple[list[T], list[BaseException]]:
    results: list[T] = []
    problems: list[BaseException] = []
    barrier = threading.Barrier(count)

    def work() -> None:
        barrier.wait(PATIENCE)
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, problems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "model name '../up' does not match"),
        ({"name": "Upper"}, "model name 'Upper' does not match"),
        ({"name": ""}, "model name '' does not match"),
        ({"name": "a" * 65}, "does not match"),
        ({"version": 0}, "version must be 1 to 9223372036854775807, not 0"),
        ({"version": 2**63}, "not 9223372036854775808"),
    ],
)
def test_what_the_server_would_not_take(bundle: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        promote_bundle(bundle, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


def test_what_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    for source, message in (
        (tmp_path / "nothing", "no such folder"),
        (bundle / "bundle.json", "no such folder"),
        (bundle.parent, r"has no bundle\.json; it is a model, pass one of its versions: 1"),
        (tmp_path, r"has no bundle\.json$"),
    ):
        with pytest.raises(UsageError, match=message):
            promote_bundle(source, tmp_path / "models")
    with pytest.raises(UsageError, match="lies in the bundle"):
        promote_bundle(bundle, bundle / "models", name="small")
    (bundle / "bundle.json").write_bytes(b"{\n\n\xff")
    with pytest.raises(UsageError, match=r"bundle\.json is not UTF-8") as refused:
        promote_bundle(bundle, tmp_path / "models")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "models").exists()


def test_a_spoilt_bundle_is_refused_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    np.savez(bundle / "golden.npz", **golden)
    (bundle / "notes.txt").touch()
    with pytest.raises(
        ExporterError, match=r"tiny/1: verification failed: .*golden\.npz.* \(and 1 more\); "
    ) as refused:
        promote_bundle(bundle, tmp_path / "models")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "models").exists()


def test_a_bundle_that_changes_meanwhile_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(home: Path) -> AbstractContextManager[Path]:
        (bundle / "CARD.md").write_text("# tini\n")
        return original(home)

    original = write.temporary
    monkeypatch.setattr("ancestral_exporter.bundle.promote.temporary", spoil)
    with pytest.raises(ExporterError, match=r"CARD\.md: changed while it was copied"):
        promote_bundle(bundle, tmp_path / "models")
    assert list((tmp_path / "models" / "tiny").iterdir()) == []


def test_a_bundle_of_version_0_2_0_verifies_and_is_promoted(tmp_path: Path) -> None:
    old = Path(__file__).parents[2] / "bundles" / "vae-0.2.0" / "1"
    promoted = promote_bundle(old, tmp_path, name="again").path
    assert verify_bundle(promoted).ok
    # The smaller graph of its encoder is a file like any other.
    assert "encode-lean.onnx" in {file.path for file in manifest_of(promoted).files}
    assert "lean" not in (promoted / "bundle.json").read_text().replace("encode-lean.onnx", "")
