"""A bundle is given a kernel, in a new version; `verify` has the CPU run it and holds it to the recorded answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ancestral.bundle.manifest import parse
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import verify_bundle
from ancestral_exporter.bundle.add_kernel import add_kernel
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.bundle.verify import sha256
from ancestral_exporter.bundle.write import write_manifest
from ancestral_exporter.errors import UsageError
from ancestral_exporter.kernels.form import make_form
from ancestral_exporter.kernels.packing import BLOCKS
from ancestral_exporter.kernels.reading import NotCovered
from ancestral_exporter.models.base import ImageShape
from kernelnets import Net

VAE = Path(__file__).parents[2] / "bundles" / "vae-0.2.0" / "1"


@pytest.fixture(scope="module")
def given(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with a kernel; no test may change it."""
    copy = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("with-kernel") / "tiny" / "1"))
    added = add_kernel(copy, ("compute_80",))
    assert not added.remarks
    return added.path


def manifest_of(bundle: Path) -> bundle_pb2.Bundle:
    return parse((bundle / "bundle.json").read_bytes(), strict=True)


def sample_role(manifest: bundle_pb2.Bundle) -> bundle_pb2.Role:
    return next(role for role in manifest.roles if role.name == "sample")


def replaced(given: Path, tmp_path: Path, path: str, content: bytes) -> Path:
    """A copy in which one file is another, and the manifest says so."""
    bundle = Path(shutil.copytree(given, tmp_path / "tiny" / "2"))
    manifest = manifest_of(bundle)
    (bundle / path).write_bytes(content)
    entry = next(file for file in manifest.files if file.path == path)
    entry.sha256, entry.size_bytes = sha256(bundle / path), len(content)
    write_manifest(bundle, manifest)
    return bundle


def test_the_new_version_has_the_kernel_and_all_that_the_old_one_had(given: Path) -> None:
    old, new = given.parent / "1", given
    assert new == given.parent / "2"
    before, manifest = manifest_of(old), manifest_of(new)
    kernel = sample_role(manifest).kernel
    assert (kernel.convention, kernel.weights) == (1, "kernel/weights.f32")
    assert [(variant.target, variant.samples) for variant in kernel.variants] == [
        ("compute_80", samples) for samples in (1, 2, 4, 8)
    ]
    for variant in kernel.variants:
        assert variant.code == f"kernel/paint_row-{variant.samples}.compute_80.ptx"
        assert (variant.entry, variant.threads) == ("paint_row", 256)
        assert 0 < variant.shared_bytes <= 227 * 1024
    added = {kernel.weights, *(variant.code for variant in kernel.variants)}
    assert {file.path for file in manifest.files} == {file.path for file in before.files} | added
    for file in before.files:
        assert (new / file.path).read_bytes() == (old / file.path).read_bytes()
    assert manifest.provenance["kernel_added_to"] == "tiny version 1"
    assert manifest.schema == before.schema


def test_verify_runs_it_on_the_cpu(given: Path) -> None:
    report = verify_bundle(given)
    assert report.ok
    lines = [str(check) for check in report.checks if "kernel sample on the CPU" in check.subject]
    assert len(lines) == 2
    assert "recorded, batch 4, row: 0.000% of the values differ" in lines[0]


def test_it_goes_with_the_bundle_when_that_is_promoted(given: Path, tmp_path: Path) -> None:
    promoted = promote_bundle(given, tmp_path, name="other").path
    assert sample_role(manifest_of(promoted)).kernel == sample_role(manifest_of(given)).kernel


def test_other_weights_than_the_graphs_are_found(given: Path, tmp_path: Path) -> None:
    weights = np.fromfile(given / "kernel/weights.f32", "<f4")
    spoilt = replaced(given, tmp_path, "kernel/weights.f32", (weights + 1).tobytes())
    failures = [str(check) for check in verify_bundle(spoilt).failures]
    assert len(failures) == 1
    assert "kernel/weights.f32 sample: has not the weights of sample.onnx" in failures[0]


def test_a_file_that_is_not_what_the_manifest_says_is_found(given: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(given, tmp_path / "tiny" / "2"))
    with (bundle / "kernel/paint_row-1.compute_80.ptx").open("ab") as code:
        code.write(b"\0")
    failures = [str(check) for check in verify_bundle(bundle).failures]
    assert len(failures) == 1
    assert "kernel/paint_row-1.compute_80.ptx" in failures[0]


def test_what_cannot_be_run_is_said_and_is_no_failure(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(given, tmp_path / "tiny" / "2"))
    manifest = manifest_of(bundle)
    manifest.provenance["kernel_source"] = "0" * 64
    write_manifest(bundle, manifest)
    report = verify_bundle(bundle)
    assert report.ok
    assert any("not run: the kernel is another version's" in check.detail for check in report.checks)
    monkeypatch.setenv("PATH", str(tmp_path))
    report = verify_bundle(given)
    assert report.ok
    assert any("not run: no g++ here" in check.detail for check in report.checks)


def test_a_kernel_that_is_there_is_replaced(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ancestral_exporter.kernels.form.BLOCKS", BLOCKS[:1])  # to save time
    bundle = Path(shutil.copytree(given, tmp_path / "tiny" / "2"))
    again = add_kernel(bundle, ("sm_90",))
    assert again.path == bundle.parent / "3"
    assert sorted(path.name for path in (again.path / "kernel").iterdir()) == ["paint_row-1.sm_90.cubin", "weights.f32"]
    assert [variant.target for variant in sample_role(manifest_of(again.path)).kernel.variants] == ["sm_90"]
    assert verify_bundle(again.path).ok


def test_where_there_is_none_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        add_kernel(tmp_path / "nothing", ("sm_90",))
    vae = Path(shutil.copytree(VAE, tmp_path / "vae-0.2.0" / "1"))
    with pytest.raises(NotCovered, match=r"^no role paints row by row, which is all that a kernel does$"):
        add_kernel(vae, ("sm_90",))
    assert [path.name for path in vae.parent.iterdir()] == ["1"]


def test_a_row_that_has_no_room_in_shared_memory_is_told_with_the_limit(pristine: Path) -> None:
    manifest = manifest_of(pristine)
    wide = ImageShape(2, 300, 1, 2)
    graph = Net(wide, {"channels": 256, "vertical_layers": 2, "horizontal_layers": 1}).model().row_graph()
    manifest.image.CopyFrom(bundle_pb2.ImageSpec(height=2, width=300, channels=1, levels=2))
    with pytest.raises(NotCovered) as refused:
        make_form(graph.build(), graph.role, manifest.image, ("sm_90", "compute_80"))
    lines = str(refused.value).split("; ")
    assert lines == [
        f"no kernel for {target}: a row of 300 pixels of 256 channels needs 942160 bytes of shared memory, "
        "a block has 232448"
        for target in ("sm_90", "compute_80")
    ]
