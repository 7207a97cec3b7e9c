"""Machine code for NVIDIA GPUs from pixelcnn_row.cu, by NVRTC: NVIDIA's compiler as a library, without GPU and driver.

The code is a function of the source, the sizes, the target and the compiler's version alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.kernels.compiling import Job, compiled, result
from ancestral_exporter.kernels.on_cpu import SOURCE

# PTX of a newer compiler is refused by drivers of CUDA 13.0 (UNSUPPORTED_PTX_VERSION, NVIDIA/nvbandwidth#61), and an
# older compiler does not know all targets.
VERSION = (13, 0)
# What bundles get where nobody says otherwise: data centres' cards since 2020 and, sm_120, work stations'. The PTX is
# for all others since 2020, and those to come: the driver compiles it when it is loaded.
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "compute_80")
# Shared memory that a block may have, KiB, by compute capability (CUDA C++ Programming Guide, table of technical
# specifications, "maximum amount of shared memory per thread block").
_SHARED_KIB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_MOST_SHARED_KIB = max(_SHARED_KIB.values())
ENTRY = "paint_row"


class NoNvrtc(ExporterError):
    """NVRTC is not installed, or another version is: the message says what to do."""


@dataclass(frozen=True)
class Code:
    """A cubin, or PTX with a zero byte at its end.

    report: what the assembler says of registers and memory; of PTX nothing, which the driver assembles.
    """

    content: bytes
    report: str

    @property
    def spilled_bytes(self) -> int | None:
        """Of registers that were stored and loaded again for want of others; None of PTX."""
        return sum(map(int, re.findall(r"(\d+) bytes spill", self.report))) if self.report else None


def shared_bytes(target: str) -> int:
    """The most dynamic shared memory that a block may have; of PTX, which later GPUs take too, that of any of them."""
    kind, _, number = target.partition("_")
    return 1024 * (_SHARED_KIB[int(number)] if kind == "sm" else _MOST_SHARED_KIB)


def parse_targets(text: str, option: str) -> tuple[str, ...]:
    """What an option names, separated by commas; "all" are TARGETS. Raises UsageError where one is unknown."""
    if text == "all":
        return TARGETS
    known = [f"{kind}_{number}" for kind in ("sm", "compute") for number in _SHARED_KIB]
    found = tuple(dict.fromkeys(target.strip() for target in text.split(",")))
    for target in found:
        if target not in known:
            raise UsageError(f"{option}: unknown target {target[:40]!r}; there are: all, {', '.join(known)}")
    return found


def compile_kernel(config: str, target: str) -> Code:
    """The kernel of that config.h for one target: a cubin for sm_90, PTX for compute_90. Raises NoNvrtc."""
    check_compiler()
    try:
        made = compiled(Job(SOURCE.name, SOURCE.read_bytes(), config, target))
    except RuntimeError as error:
        raise ExporterError(f"NVRTC does not compile the kernel for {target}: {error}") from error
    if made.error:
        first = next((line for line in made.log.splitlines() if "error" in line), made.error)
        raise ExporterError(f"NVRTC does not compile the kernel for {target}: {first}")
    return Code(made.content, "" if target.startswith("compute") else _assembled(made.log))


def _assembled(log: str) -> str:
    """The assembler's own lines about the kernel, in one."""
    found = re.findall(r"\d+ bytes stack frame.*|Used \d+ registers.*", log)
    if len(found) < 2:
        raise ExporterError("NVRTC's log has no report of its assembler: another version than is known here")
    return ", ".join(line.strip() for line in found)


def check_compiler() -> None:
    """Raises NoNvrtc where `compile_kernel` would."""
    try:
        from cuda.bindings import nvrtc

        version = tuple(result(nvrtc.nvrtcVersion()))
    except (ImportError, RuntimeError, OSError) as error:
        raise NoNvrtc("NVRTC is not installed: pip install 'ancestral[kernels]'") from error
    if version != VERSION:
        have, want = (".".join(map(str, numbers)) for numbers in (version, VERSION))
        raise NoNvrtc(f"NVRTC {have} is installed, {want} is needed: pip install 'nvidia-cuda-nvrtc=={want}.*'")
