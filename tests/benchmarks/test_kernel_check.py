"""In short: what it finds at length is what `make kernel-check` is for."""

from __future__ import annotations

import pytest

import kernel_check
import kernelnets
from ancestral_exporter.kernels import nvrtc
from ancestral_exporter.kernels.packing import BLOCKS
from kernelnets import Expected, Net


def test_a_short_run_finds_nothing_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("kernel_check.BLOCKS", BLOCKS[:1])
    arguments = ["--nets", "1", "--barriers", "1", "--recipe", "tiles-pixelcnn", "--targets", "compute_80"]
    assert kernel_check.main(arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("ok     0 pixels differ")
    assert lines[2].startswith("ok     tiles-pixelcnn, 1 samples, compute_80: ")
    assert last.startswith("0 nets painted wrongly, ")


def test_what_is_wrong_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def spoilt(net: Net, images: int) -> Expected:
        found = expected(net, images)
        found.images[0, 0, 0, 0] ^= 255
        return found

    expected = kernelnets.expected
    monkeypatch.setattr(kernelnets, "expected", spoilt)
    assert kernel_check.check_nets(1) == 1
    monkeypatch.setattr("kernel_check.BLOCKS", BLOCKS[:1])
    report = "0 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads, Used 255 registers"
    monkeypatch.setattr(nvrtc, "compile_kernel", lambda config, target: nvrtc.Code(b"", report))
    assert kernel_check.check_code(("sm_90",), "tiles-pixelcnn") == 1
    assert capsys.readouterr().out.count("WRONG") == 2
