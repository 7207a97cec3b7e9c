"""What the kernel of a bundle has to show on a GPU: rightness, the same bytes in any company, speed.

Needs numpy, protobuf and NVIDIA's driver: neither onnxruntime nor CUDA's libraries. Letters: B samples of a row.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_server.runtime.golden import recorded, replay_raster
from ancestral_server.runtime.kernels.driver import Driver
from ancestral_server.runtime.kernels.program import CONVENTION, KernelProgram
from ancestral_server.runtime.kernels.variants import Device, NoKernel, usable
from ancestral_server.runtime.program import Meaning

Array = np.ndarray[Any, Any]
ROW, LOG_LIKELIHOOD = bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_LOG_LIKELIHOOD
# Samples at a time that are timed; so many times, after one that warms up.
BATCHES, RUNS = (1, 16, 64, 132, 256, 512, 1024, 2048), 7
# Samples whose bytes are compared between the variants, and how many of them are painted alone.
MANY, ALONE = 1024, (1, 7, 341)
# Of the log-likelihood, relative; of pixels none may differ.
LIMIT = 1e-4
# Seconds of one of NVIDIA's checkers, which run a kernel some hundred times as slow.
CHECKER_SECONDS = 120


@dataclass
class Checked:
    """One variant: how its answers differ from the recorded ones, and how long its code took to load."""

    variant: str
    pixels: int
    likelihood: float
    load_ms: float


@dataclass
class KernelReport:
    """Of one role; `problems` are what must not be."""

    bundle: str
    device: str
    variants: list[Checked] = field(default_factory=list)
    # Milliseconds until B images are painted, as a server has them painted.
    served_ms: dict[int, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def roles(manifest: bundle_pb2.Bundle) -> list[bundle_pb2.Role]:
    """Those that have a kernel which is known here."""
    return [role for role in manifest.roles if role.HasField("kernel") and role.kernel.convention == CONVENTION]


def check(
    manifest: bundle_pb2.Bundle,
    role: bundle_pb2.Role,
    files: Mapping[str, bytes],
    answers: Mapping[str, Array],
    driver: Driver,
    *,
    quick: bool = False,
) -> KernelReport:
    """quick: few samples, and no times."""
    report = KernelReport(f"{manifest.name}/{manifest.version}", str(driver))
    device = Device(driver.capability, driver.multiprocessors, driver.shared_bytes)
    inputs, expected = recorded(role, answers, manifest.golden.path)
    batch = len(expected[ROW])
    count = 40 if quick else MANY
    many = random_inputs(role, manifest, count)
    bytes_of_many: dict[str, bytes] = {}
    for variant in every(role.kernel, device):
        name = f"{variant.target}, {variant.samples} to a block"
        began = time.perf_counter()
        try:
            program = KernelProgram(role, manifest, driver, [variant], files, max(batch, count))
        except NoKernel as error:
            report.problems.append(f"{name}: {error}")
            continue
        loaded = (time.perf_counter() - began) * 1000
        got = replay_raster(program, inputs)
        pixels = int((got[ROW] != expected[ROW]).sum())
        off = 0.0
        if LOG_LIKELIHOOD in expected:
            wanted = expected[LOG_LIKELIHOOD]
            off = float(np.max(np.abs(got[LOG_LIKELIHOOD] - wanted) / (1 + np.abs(wanted))))
        report.variants.append(Checked(name, pixels, off, loaded))
        if pixels or not off <= LIMIT:
            report.problems.append(f"{name}: {pixels} recorded pixels differ, log-likelihood off by {off:.1e}")
        whole = replay_raster(program, many)
        bytes_of_many[name] = joined(whole)
        for alone in ALONE:
            part = replay_raster(program, {meaning: array[-alone:] for meaning, array in many.items()})
            if joined(part) != joined({meaning: array[-alone:] for meaning, array in whole.items()}):
                report.problems.append(f"{name}: bytes of {alone} of {count} samples differ alone")
        program.close()
    if len(set(bytes_of_many.values())) > 1:
        report.problems.append(f"bytes of {count} samples differ between variants")
    if not quick and not report.problems:
        report.served_ms = served(role, manifest, files, driver, usable(role.kernel, device))
    return report


def every(kernel: bundle_pb2.Kernel, device: Device) -> list[bundle_pb2.KernelVariant]:
    """All variants that the device takes: its own code and PTX, of each number of samples."""
    found = []
    for variant in kernel.variants:
        alone = bundle_pb2.Kernel(variants=[variant])
        try:
            found += usable(alone, device)
        except NoKernel:
            continue
    return found


def served(
    role: bundle_pb2.Role,
    manifest: bundle_pb2.Bundle,
    files: Mapping[str, bytes],
    driver: Driver,
    variants: Sequence[bundle_pb2.KernelVariant],
) -> dict[int, float]:
    """By samples at a time, milliseconds until all are painted: copies, launches and waits, variants by the rule."""
    program = KernelProgram(role, manifest, driver, variants, files, max(BATCHES))
    medians = {}
    for batch in BATCHES:
        inputs = random_inputs(role, manifest, batch)
        seen = []
        for _ in range(1 + RUNS):
            began = time.perf_counter()
            replay_raster(program, inputs)
            seen.append((time.perf_counter() - began) * 1000)
        medians[batch] = statistics.median(seen[1:])
    program.close()
    return medians


def random_inputs(role: bundle_pb2.Role, manifest: bundle_pb2.Bundle, batch: int) -> dict[Meaning, Array]:
    """Free samples [B,H,W,C], of all labels in turn, at temperature 1."""
    random, image = np.random.default_rng(1), manifest.image
    whole = (batch, image.height, image.width, image.channels)
    inputs: dict[Meaning, Array] = {
        bundle_pb2.MEANING_GIVEN: np.zeros(whole, np.uint8),
        bundle_pb2.MEANING_KNOWN: np.zeros(whole, np.bool_),
        bundle_pb2.MEANING_UNIFORMS: (random.integers(0, 2**24, whole) / 2**24).astype(np.float32),
        bundle_pb2.MEANING_TEMPERATURE: np.ones(batch, np.float32),
    }
    if any(tensor.meaning == bundle_pb2.MEANING_LABEL for tensor in role.inputs):
        inputs[bundle_pb2.MEANING_LABEL] = np.arange(batch, dtype=np.int64) % manifest.label_count
    return inputs


def joined(answers: Mapping[Meaning, Array]) -> bytes:
    return b"".join(answers[meaning].tobytes() for meaning in sorted(answers))


def checkers(script: Path, models: Path, out: Path) -> list[str]:
    """Lines about NVIDIA's checkers, each of which runs the quick check of the kernels in a process of its own."""
    found = shutil.which("compute-sanitizer")
    if found is None:
        return ["compute-sanitizer: not on this machine"]
    lines = []
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [found, "--tool", tool, "--error-exitcode", "9", sys.executable, str(script)]
        command += ["--models", str(models), "--quick-kernels"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CHECKER_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            lines.append(f"{tool}: not done after {CHECKER_SECONDS} s")
            continue
        log = out.with_name(f"{out.name}-{tool}.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout + done.stderr)
        lines.append(f"{tool}: exit code {done.returncode}, {log}")
    return lines


def markdown(reports: Sequence[KernelReport]) -> str:
    """What the kernels showed."""
    lines = ["## Kernels", ""]
    if not reports:
        return "\n".join([*lines, "No bundle has one.", ""])
    lines += [
        "| bundle | variant | recorded pixels that differ | log-likelihood off by | loaded in, ms |",
        "|---|---|---:|---:|---:|",
    ]
    for report in reports:
        for each in report.variants:
            row = (report.bundle, each.variant, each.pixels, f"{each.likelihood:.1e}", f"{each.load_ms:.0f}")
            lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += [
        "",
        f"Bytes of {MANY} samples are compared between variants, and with those of {ALONE} of them alone.",
        "",
    ]
    for report in reports:
        times = ", ".join(f"{batch:,}: {ms:.1f}" for batch, ms in report.served_ms.items())
        lines.append(
            f"- {report.bundle} on {report.device}: ms until so many images are painted: {times or 'not timed'}"
        )
        lines += [f"- {report.bundle}: FAILED {problem}" for problem in report.problems]
    return "\n".join([*lines, ""])
