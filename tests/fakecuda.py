"""A GPU that is none: `cuda/libcuda.cpp` and `cuda/libnvidia-ml.cpp` in the place of NVIDIA's driver, and `toybundle`'s
sampler as its kernel.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

import toybundle
from ancestral.bundle.manifest import MANIFEST, parse
from ancestral.v1 import bundle_pb2
from shared import Shared

SOURCES = Path(__file__).with_name("cuda")
NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class FakeCuda:
    """driver: the library; its folder is what LD_LIBRARY_PATH says to a server. kernel: the sampler's."""

    driver: Path
    kernel: Path

    @property
    def nvml(self) -> Path:
        """The library that tells how a GPU is."""
        return self.driver.with_name(NVML)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that takes it for the machine's."""
        return {"LD_LIBRARY_PATH": str(self.driver.parent)}

    def current(self) -> int:
        """The device that the calling thread is on; -1: none."""
        return int(ctypes.CDLL(str(self.driver)).current_device())

    def free_bytes(self, index: int = 0) -> int:
        """Of a device's memory, in this process."""
        driver = ctypes.CDLL(str(self.driver))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        # A context's handle is the device's number, and one.
        driver.cuCtxSetCurrent(ctypes.c_void_p(index + 1))
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxSetCurrent(None)
        return free.value


def built(once: Shared) -> FakeCuda:
    """The libraries, built once in a run."""

    def build(folder: Path) -> None:
        for source, library in (
            ("libcuda.cpp", "libcuda.so.1"),
            ("libnvidia-ml.cpp", NVML),
            ("tally.cpp", "tally.so"),
        ):
            command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
            subprocess.run([*command, SOURCES / source, "-o", folder / library, "-ldl"], check=True, timeout=120)

    folder = once("fake cuda", build)
    return FakeCuda(folder / "libcuda.so.1", folder / "tally.so")


def add_kernel(
    folder: Path,
    fake: FakeCuda,
    how: str = "r",
    *,
    targets: Sequence[str] = ("sm_90", "compute_80"),
    samples: Sequence[int] = (1, 4),
    shared_bytes: int = 1024,
    convention: int = 1,
    weights: int = 64,
) -> Path:
    """Give the sampler of a toy bundle a kernel that behaves as `how` says: see tally.cpp. weights: their bytes."""
    manifest = parse((folder / MANIFEST).read_bytes())
    role = next(role for role in manifest.roles if role.name == "sample")
    (folder / "kernel.weights").write_bytes(how.encode().ljust(weights, b"\0"))
    (folder / "kernel.code").write_bytes(str(fake.kernel).encode() + b"\0")
    manifest.files.extend([toybundle.listed(folder / "kernel.weights"), toybundle.listed(folder / "kernel.code")])
    role.kernel.CopyFrom(
        bundle_pb2.Kernel(
            convention=convention,
            weights="kernel.weights",
            state_bytes=16,
            variants=[
                bundle_pb2.KernelVariant(
                    code="kernel.code",
                    target=target,
                    entry="paint_row",
                    samples=each,
                    threads=32,
                    shared_bytes=shared_bytes * each,
                    scratch_bytes=16,
                )
                for target in targets
                for each in samples
            ],
        )
    )
    document = json_format.MessageToDict(manifest, preserving_proto_field_name=True)
    (folder / MANIFEST).write_text(json.dumps(document, indent=2))
    return folder
