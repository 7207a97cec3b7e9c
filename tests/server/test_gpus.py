"""What a scrape says of GPUs: pynvml itself on a stand-in for NVIDIA's library (see `fakecuda`)."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from ancestral_server.metrics import Gpus, Metrics
from ancestral_server.runtime.kernels.driver import uuid_of
from fakecuda import FakeCuda
from waiting import PATIENCE, until

FIGURES = {
    "ancestral_gpu_memory_used_bytes": 2**28,
    "ancestral_gpu_memory_total_bytes": 2**30,
    "ancestral_gpu_utilization_ratio": 0.42,
    "ancestral_gpu_temperature_celsius": 55,
    "ancestral_gpu_power_watts": 250.5,
}
UP = "ancestral_gpu_up"

Shown = Callable[[], dict[str, float]]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda) -> None:
    """pynvml, in this process, on the stand-in."""
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fake_cuda.nvml)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def shown_by(gpus: Gpus, gpu: str = "0") -> Shown:
    """Reads the values of the series of one GPU in a scrape, by name."""
    metrics = Metrics("1")
    metrics.machine.gpus(gpus.read)

    def shown() -> dict[str, float]:
        text = metrics.scrape(False).decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if f'gpu="{gpu}"' in line)
        return {name.partition("{")[0]: float(value) for name, _, value in lines}

    return shown


@pytest.fixture
def shown(nvml: None, fake_cuda: FakeCuda) -> Shown:
    return shown_by(Gpus({0: partial(uuid_of, 0, str(fake_cuda.driver))}, PATIENCE))


def test_a_scrape_shows_how_a_gpu_is(shown: Shown) -> None:
    assert shown() == {"ancestral_gpu_info": 1, UP: 1, **FIGURES}


def test_it_is_the_device_of_that_number(nvml: None, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    numbers = (1, 2)
    uuids = {number: partial(uuid_of, number, str(fake_cuda.driver)) for number in numbers}
    (gpu,) = Gpus(uuids, PATIENCE).read()
    assert (gpu.gpu, gpu.name, gpu.driver) == ("1", "no GPU, a stand-in", "580.0")
    assert gpu.uuid == "GPU-00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("lacks", "missing"),
    [
        ("power", {"power_watts"}),
        ("memory temperature", {"memory_used_bytes", "memory_total_bytes", "temperature_celsius"}),
    ],
)
def test_what_a_device_does_not_tell_has_no_series(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, lacks: str, missing: set[str]
) -> None:
    monkeypatch.setenv("FAKE_NVML_LACKS", lacks)
    found = shown()
    assert found[UP] == 1
    assert FIGURES.keys() - found.keys() == {f"ancestral_gpu_{name}" for name in missing}


def test_a_part_of_a_gpu_is_found_by_its_own_name(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_KIND", "MIG")
    assert shown()[UP] == 1


def test_a_gpu_that_falls_away_is_shown_and_said_once(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    monkeypatch.setenv("FAKE_NVML_LOST", str(lost))
    assert shown()[UP] == 1
    lost.touch()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert shown() == {"ancestral_gpu_info": 1, UP: 0}
        lost.unlink()
        assert shown() == {"ancestral_gpu_info": 1, UP: 1, **FIGURES}
    assert [(line["event"], line["log_level"], line.get("reason")) for line in logged] == [
        ("the GPU does not answer any more", "error", "GPU is lost"),
        ("the GPU answers", "info", None),
    ]


def test_a_library_that_hangs_keeps_no_scrape_waiting(
    nvml: None, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    monkeypatch.setenv("FAKE_NVML_HANG", str(hang))
    gpus = Gpus({0: partial(uuid_of, 0, str(fake_cuda.driver))}, PATIENCE)
    shown = shown_by(gpus)
    assert shown()[UP] == 1
    hang.touch()
    try:
        monkeypatch.setattr(gpus, "_longest_seconds", 0.01)
        before = set(threading.enumerate())
        for _ in range(3):
            # The other series are there all the same.
            assert shown() == {"ancestral_gpu_info": 1, UP: 0}
        # All three wait for the same one.
        assert [each.name for each in threading.enumerate() if each not in before].count("nvml") == 1
    finally:
        hang.unlink()
    until(lambda: shown()[UP] == 1)


@pytest.mark.parametrize(
    ("without", "said"),
    [("GPU", []), ("pynvml", ["no metrics of the GPU"])],
)
def test_where_there_is_nothing_to_ask_there_are_no_series(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, without: str, said: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # whoever imports it fails
    if without == "GPU":
        monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    shown = shown_by(Gpus({0: partial(uuid_of, 0, str(fake_cuda.driver))}, PATIENCE))
    logged: list[Any]
    with structlog.testing.capture_logs() as logged:
        assert [shown(), shown()] == [{}, {}]
    assert [line["event"] for line in logged] == said


@pytest.mark.parametrize("library", ["libnone.so.1", "libm.so.6"])
def test_a_driver_that_is_none_names_no_device(library: str) -> None:
    assert uuid_of(0, library) is None
