"""What write_bundle leaves on the disk, when it succeeds and when it does not."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import json_format

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import VerifyError, verify_model, write, write_bundle
from ancestral_exporter.bundle.feeds import Subjects
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.base import ImageShape, OneShotGraph, RasterGraph
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings

IMAGES = np.zeros((2, 5, 4, 1), np.uint8)
LABELS = np.zeros(2, np.int64)


def manifest_of(bundle: Path) -> bundle_pb2.Bundle:
    return json_format.Parse((bundle / "bundle.json").read_text(), bundle_pb2.Bundle())


def test_bundle_holds_what_it_says(pristine: Path) -> None:
    manifest = manifest_of(pristine)
    assert (manifest.schema, manifest.name, manifest.version, manifest.family) == (1, "tiny", 1, "pixelcnn")
    assert (manifest.image.height, manifest.image.width, manifest.image.channels, manifest.image.levels) == (5, 4, 1, 3)
    assert manifest.label_count == 2
    assert [metric.value for metric in manifest.metrics] == [1.5, 2]  # given, and measured of the graphs
    assert manifest.provenance == {"seed": "0"}
    assert {role.name for role in manifest.roles} == {"score", "features", "sample", "classify"}
    files = {"CARD.md", "classify.onnx", "golden.npz", "sample.onnx", "score.onnx"}
    assert {file.path for file in manifest.files} == files
    assert {path.name for path in pristine.iterdir()} == files | {"bundle.json"}
    assert [path.name for path in pristine.parent.iterdir()] == ["1"]  # no temporary folder stays
    assert '"label_count"' in (pristine / "bundle.json").read_text()  # the field names of the proto file


def test_graphs_carry_no_paths_of_this_machine(pristine: Path) -> None:
    for file in ("score.onnx", "sample.onnx"):
        assert str(Path(write.__file__).parents[3]).encode() not in (pristine / file).read_bytes()
        assert onnx.load(str(pristine / file)).graph.node


def test_golden_holds_whole_images_of_the_raster_role(pristine: Path) -> None:
    golden = np.load(pristine / "golden.npz")
    assert golden["sample/in/known"].shape == golden["sample/out/row"].shape == (4, 5, 4, 1)
    assert golden["sample/in/label"].shape == golden["sample/out/log_likelihood"].shape == (4,)
    assert golden["score/in/image"].shape == (6, 5, 4, 1)
    assert not golden["sample/in/known"][0].any()
    assert golden["sample/in/known"][1].any()


def test_golden_holds_fewer_images_of_large_answers(tmp_path: Path) -> None:
    """256 KiB of a role, but no fewer than four: here of 100 × 100 × 8 floats beside the features; 16 of the score."""
    torch.manual_seed(0)
    net = PixelCNNSettings(channels=8, vertical_layers=1, horizontal_layers=1, head_channels=4)
    graphs = GatedPixelCNN(ImageShape(100, 100, 1, 2), net).eval().graphs()
    subjects = Subjects(np.zeros((16, 100, 100, 1), np.uint8), None, 0)
    golden = write._record([graph for graph in graphs if not isinstance(graph, RasterGraph)], tmp_path, subjects)
    assert {name: len(values) for name, values in golden.items() if "/out/" in name} == {
        "score/out/log_likelihood": 16, "features/out/features": 4, "features/out/feature_map": 4,
    }  # fmt: skip


def test_the_umask_says_who_may_read(model: GatedPixelCNN, pristine: Path, tmp_path: Path) -> None:
    """Of all folders and files alike: a folder that is open in one that is closed would help nobody."""
    before = os.umask(0o077)
    try:
        write_bundle(model, name="tiny", models_dir=tmp_path / "77", golden_images=IMAGES, golden_labels=LABELS)
        for umask in (0o77, 0o22, 0o2):
            os.umask(umask)
            promote_bundle(pristine, tmp_path / f"{umask:o}", name="other")
    finally:
        os.umask(before)
    for umask, count in ((0o77, 16), (0o22, 9), (0o2, 9)):
        models = tmp_path / f"{umask:o}"
        paths = [models, *models.rglob("*")]
        assert len(paths) == count, paths
        for path in paths:
            wanted = (0o777 if path.is_dir() else 0o666) & ~umask
            assert oct(path.stat().st_mode & 0o777) == oct(wanted), path


def test_placing_takes_the_next_version_and_never_replaces_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for taken in ("2", "7", "notes"):
        (tmp_path / taken).mkdir()
        (tmp_path / taken / "bundle.json").write_text("somebody else's")
    answers = iter([7, 8])  # another exporter took version 7 after we looked
    monkeypatch.setattr(write, "next_version", lambda home: next(answers))
    with write.temporary(tmp_path) as folder:
        (folder / "a.onnx").write_bytes(b"graph")
        placed = write.place(folder, tmp_path, bundle_pb2.Bundle(schema=1, name=tmp_path.name))
    assert placed == tmp_path / "8"
    assert manifest_of(placed).version == 8
    assert (tmp_path / "7" / "bundle.json").read_text() == "somebody else's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "7", "8", "notes"]
    monkeypatch.undo()
    assert write.next_version(tmp_path) == 9


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush_folders_takes_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with write.temporary(tmp_path) as folder:
        assert write.place(folder, tmp_path, bundle_pb2.Bundle(schema=1, name=tmp_path.name)) == tmp_path / "1"


@pytest.mark.parametrize("fault", ["extras", "graph"])
def test_a_failed_export_leaves_nothing(
    model: GatedPixelCNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(folder: Path) -> NoReturn:
        assert (folder / "sample.onnx").is_file()
        raise RuntimeError("disk full")

    if fault == "graph":
        spoil_raster(model, monkeypatch)
    with pytest.raises((RuntimeError, VerifyError), match="disk full" if fault == "extras" else r"sample\.onnx"):
        write_bundle(model, name="tiny", models_dir=tmp_path, golden_images=IMAGES, golden_labels=LABELS, extras=fail)
    assert list((tmp_path / "tiny").iterdir()) == []


def spoil_raster(model: GatedPixelCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model export a row graph of other weights than it answers with."""
    graphs_of = model.graphs
    graphs = graphs_of()

    def spoilt() -> onnx.ModelProto:
        bias = model.get_parameter("head.logits.0.bias")
        saved = bias.data.clone()
        bias.data += torch.tensor([1.0, 0, 0])
        raster = next(g for g in graphs_of() if isinstance(g, RasterGraph))
        built = raster.build()
        bias.data = saved
        return built

    changed: list[Any] = [replace(g, build=spoilt) if isinstance(g, RasterGraph) else g for g in graphs]
    monkeypatch.setattr(model, "graphs", lambda: changed)


def test_verify_model_names_graph_tensor_batch_and_worst_difference(
    model: GatedPixelCNN, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify_model(model, bundle).ok
    score = next(g for g in model.graphs() if isinstance(g, OneShotGraph))

    class Off(torch.nn.Module):
        def forward(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, ...]:
            scores, *rest = score.module(image, label)
            return scores + 0.25, *rest

    monkeypatch.setattr(model, "graphs", lambda: [replace(score, module=Off())])
    failures = verify_model(model, bundle).failures
    assert [f.subject for f in failures] == [
        f"score.onnx score against PyTorch, batch {b}, log_likelihood" for b in (1, 2, 7, 64)
    ]
    assert "worst difference 0.25" in failures[0].detail


def test_wrong_arguments_are_refused(model: GatedPixelCNN, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not match"):
        write_bundle(model, name="../x", models_dir=tmp_path, golden_images=IMAGES, golden_labels=LABELS)
    with pytest.raises(UsageError, match=r"uint8 \[N,5,4,1\]"):
        write_bundle(model, name="x", models_dir=tmp_path, golden_images=IMAGES[:, :3], golden_labels=LABELS)
    with pytest.raises(UsageError, match="golden labels"):
        write_bundle(model, name="x", models_dir=tmp_path, golden_images=IMAGES)
    assert not (tmp_path / "x").exists()
