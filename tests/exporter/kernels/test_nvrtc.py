"""NVIDIA's compiler makes machine code of the kernel, without a GPU; `make kernel-check` does so for all recipes."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

import kernelnets
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.kernels import nvrtc
from ancestral_exporter.kernels.compiling import repeatable
from ancestral_exporter.kernels.nvrtc import NoNvrtc, compile_kernel, parse_targets
from ancestral_exporter.kernels.packing import Block
from ancestral_exporter.models.base import ImageShape
from kernelnets import Net

SHAPE = ImageShape(3, 4, 1, 2)
NET = Net(SHAPE, {"channels": 8, "vertical_layers": 2, "horizontal_layers": 2, "row_dilations": (2,)})


@pytest.fixture(scope="module")
def config() -> str:
    return kernelnets.packed_of(NET.model().row_graph(), SHAPE).config(Block(2, 4, 2))


def test_a_cubin_is_the_same_every_time_and_spills_nothing(config: str) -> None:
    code = compile_kernel(config, "sm_90")
    assert code.content[:4] == b"\x7fELF"
    assert code.spilled_bytes == 0
    assert compile_kernel(config, "sm_90") == code or not repeatable()


def test_ptx_is_text_for_drivers_of_cuda_13_0_that_ends_with_a_zero_byte(config: str) -> None:
    code = compile_kernel(config, "compute_80")
    assert code.spilled_bytes is None  # the driver assembles it
    text = code.content.decode()
    assert text.endswith("\0")
    assert text.count("\0") == 1
    assert ".version 9.0\n" in text
    assert ".target sm_80\n" in text
    assert re.search(r"\.visible \.entry paint_row\(", text)
    # A product and a sum are one operation only where the source says so, and no operation rounds its own way.
    assert not re.findall(r"\.approx|\.ftz|mad\.f32", text)


def test_source_that_does_not_compile_is_told_in_a_line() -> None:
    with pytest.raises(ExporterError, match=r"^NVRTC does not compile the kernel for sm_90: .*error") as refused:
        compile_kernel("#error no sizes\n", "sm_90")
    assert "\n" not in str(refused.value)


def test_without_nvrtc_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(NoNvrtc, match=r"^NVRTC is not installed: pip install 'ancestral\[kernels\]'$"):
        compile_kernel("", "sm_90")


def test_another_version_of_nvrtc_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(nvrtc=SimpleNamespace(nvrtcVersion=lambda: (0, 13, 2)))
    monkeypatch.setitem(sys.modules, "cuda.bindings", other)
    with pytest.raises(NoNvrtc, match=r"^NVRTC 13\.2 is installed, 13\.0 is needed: pip install 'nvidia-cuda-"):
        compile_kernel("", "sm_90")


def test_targets_are_named_or_all() -> None:
    assert parse_targets("all", "--targets") == nvrtc.TARGETS
    assert parse_targets("sm_90, compute_80,sm_90", "--targets") == ("sm_90", "compute_80")
    for text, wrong in (("sm_91", "'sm_91'"), ("", "''"), ("sm_90,", "''"), ("all,sm_90", "'all'"), ("h100", "'h100'")):
        with pytest.raises(UsageError, match=f"^--targets: unknown target {wrong}; there are: all, sm_80, sm_86"):
            parse_targets(text, "--targets")
