"""`train --kernels` and `add-kernel`: what they write, and the line that they say where there can be no kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import json_format

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.kernel import give_or_say
from ancestral_exporter.cli import main
from ancestral_exporter.kernels.packing import BLOCKS
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelrnn import PixelRNN, PixelRNNSettings

VAE = Path(__file__).parents[1] / "bundles" / "vae-0.2.0" / "1"
SMALL = [
    argument
    for value in ("channels=8", "head_channels=8", "vertical_layers=1", "horizontal_layers=1", "one_hot=false")
    for argument in ("--set", f"model.{value}")
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ancestral-exporter", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call


def kernel_of(bundle: Path) -> bundle_pb2.Kernel | None:
    manifest = json_format.Parse((bundle / "bundle.json").read_text(), bundle_pb2.Bundle())
    role = next(role for role in manifest.roles if role.name == "sample")
    return role.kernel if role.HasField("kernel") else None


def test_a_kernel_at_export_and_none_without_nvrtc(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ancestral_exporter.kernels.form.BLOCKS", BLOCKS[:1])  # to save time
    train = ("train", "tiles-pixelcnn", "--models", tmp_path, "--epochs", "0", *SMALL, "--kernels", "compute_80")
    code, told, complained = run(*train)
    assert (code, complained) == (0, "")
    kernel = kernel_of(tmp_path / "tiles-pixelcnn" / "1")
    assert kernel is not None
    assert [variant.code for variant in kernel.variants] == ["kernel/paint_row-1.compute_80.ptx"]
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    code, told, complained = run(*train)
    assert (code, complained) == (0, "")
    assert "the bundle gets no kernel: NVRTC is not installed: pip install 'ancestral[kernels]'" in told
    assert kernel_of(tmp_path / "tiles-pixelcnn" / "2") is None
    code, told, complained = run("add-kernel", tmp_path / "tiles-pixelcnn" / "2")
    assert (code, told) == (1, "")
    assert complained == "ancestral-exporter: NVRTC is not installed: pip install 'ancestral[kernels]'\n"
    monkeypatch.undo()


def test_a_model_that_there_is_no_kernel_for_is_written_without(tmp_path: Path) -> None:
    graph = PixelRNN(ImageShape(4, 3, 1, 2), PixelRNNSettings(size=4, layers=1)).row_graph()
    onnx.save(graph.build(), tmp_path / "sample.onnx")
    manifest, said = bundle_pb2.Bundle(roles=[graph.role]), list[str]()
    give_or_say(("sm_90",), said.append, tmp_path, manifest)
    assert said[1:] == [
        "the bundle gets no kernel: sample.onnx is not the row graph of a gated PixelCNN, which is all that the kernel "
        "covers"
    ]
    assert not manifest.roles[0].HasField("kernel")
    assert [path.name for path in tmp_path.iterdir()] == ["sample.onnx"]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("add-kernel", VAE), 1, "no role paints row by row, which is all that a kernel does"),
        (("add-kernel", "nowhere"), 2, "nowhere: no such folder"),
        (("add-kernel", VAE, "--targets", "sm_91"), 2, "--targets: unknown target 'sm_91'; there are: all, sm_80, "),
        (
            ("train", "digits-pixelcnn", "--models", "m", "--kernels", "h100"),
            2,
            "--kernels: unknown target 'h100'; there",
        ),
        (
            ("train", "digits-vae", "--models", "m", "--kernels", "all"),
            2,
            "--kernels has no effect on digits-vae: no role of it paints row by row; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, told, complained = run(*arguments)
    assert (got, told) == (code, "")
    assert complained.startswith(f"ancestral-exporter: {line}")
    assert complained.count("\n") == 1
    assert not list(tmp_path.iterdir())
