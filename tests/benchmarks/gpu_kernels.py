"""What the kernel of a bundle has to show on a GPU: rightness, the same bytes in any company, speed.

Needs numpy, protobuf and NVIDIA's driver: neither onnxruntime nor CUDA's libraries. Letters: B samples of a row.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_server.errors import DeviceLost
from ancestral_server.runtime.golden import recorded, replay_raster
from ancestral_server.runtime.kernels.driver import Driver
from ancestral_server.runtime.kernels.program import CONVENTION, KernelProgram
from ancestral_server.runtime.kernels.variants import Device, NoKernel, usable
from ancestral_server.runtime.program import Meaning

Array = np.ndarray[Any, Any]
ROW, LOG_LIKELIHOOD = bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_LOG_LIKELIHOOD
# Samples at a time that are timed; so many times, after one that warms up. Each variant by itself is timed less often.
BATCHES, RUNS, RUNS_OF_EACH = (1, 16, 64, 132, 256, 512, 1024, 2048), 7, 3
# Samples whose bytes are compared between the variants, and how many of them are painted alone.
MANY, ALONE = 1024, (1, 7, 341)
# Of the log-likelihood, relative; of pixels none may differ.
LIMIT = 1e-4
# Seconds of one of NVIDIA's checkers, which run a kernel some hundred times as slow.
CHECKER_SECONDS = 60


@dataclass
class Checked:
    """One variant: how its answers differ from the recorded ones, and how long its code took to load."""

    variant: str
    pixels: int
    likelihood: float
    load_ms: float
    # Milliseconds of all rows of B images, launched one after the other and waited for once: what the device takes.
    device_ms: dict[int, float] = field(default_factory=dict)


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
) -> Iterator[KernelReport]:
    """The report, again whenever it has more in it. quick: few samples, and no times."""
    report = KernelReport(f"{manifest.name}/{manifest.version}", str(driver))
    device = Device(driver.capability, driver.multiprocessors, driver.shared_bytes)
    bytes_of_many: dict[str, bytes] = {}
    for variant in every(role.kernel, device):
        name = f"{variant.target}, {variant.samples} to a block"
        try:
            for _ in _check_variant(
                report, name, variant, manifest, role, files, answers, driver, bytes_of_many, quick
            ):
                yield report
        except NoKernel as error:
            report.problems.append(f"{name}: {error}")
            yield report
        except DeviceLost as error:
            # Nothing more can be asked of the device by this process.
            report.problems.append(f"{name}: {error}")
            yield report
            return
    if not quick and not report.problems:
        for report.served_ms in served(role, manifest, files, driver, usable(role.kernel, device)):
            yield report


def _check_variant(
    report: KernelReport,
    name: str,
    variant: bundle_pb2.KernelVariant,
    manifest: bundle_pb2.Bundle,
    role: bundle_pb2.Role,
    files: Mapping[str, bytes],
    answers: Mapping[str, Array],
    driver: Driver,
    bytes_of_many: dict[str, bytes],
    quick: bool,
) -> Iterator[None]:
    """Yields when there is something new in the report. bytes_of_many: by variant, those of many samples."""
    inputs, expected = recorded(role, answers, manifest.golden.path)
    count = 40 if quick else MANY
    many = random_inputs(role, manifest, count)
    began = time.perf_counter()
    most = max(len(expected[ROW]), count, 0 if quick else max(BATCHES))
    program = KernelProgram(role, manifest, driver, [variant], files, most)
    loaded = (time.perf_counter() - began) * 1000
    try:
        got = replay_raster(program, inputs)
        pixels = int((got[ROW] != expected[ROW]).sum())
        off = 0.0
        if LOG_LIKELIHOOD in expected:
            wanted = expected[LOG_LIKELIHOOD]
            off = float(np.max(np.abs(got[LOG_LIKELIHOOD] - wanted) / (1 + np.abs(wanted))))
        checked = Checked(name, pixels, off, loaded)
        report.variants.append(checked)
        if pixels or not off <= LIMIT:
            where = f", {first_difference(got[ROW], expected[ROW])}" if pixels else ""
            report.problems.append(f"{name}: {pixels} recorded pixels differ{where}, log-likelihood off by {off:.1e}")
        yield
        whole = replay_raster(program, many)
        for other, others in list(bytes_of_many.items())[:1]:
            if others != joined(whole):
                report.problems.append(f"{name}: bytes of {count} samples differ from those of {other}")
        bytes_of_many[name] = joined(whole)
        for alone in ALONE:
            part = replay_raster(program, {meaning: array[-alone:] for meaning, array in many.items()})
            if joined(part) != joined({meaning: array[-alone:] for meaning, array in whole.items()}):
                report.problems.append(f"{name}: bytes of {alone} of {count} samples differ alone")
        yield
        if not quick:
            for batch in BATCHES:
                checked.device_ms[batch] = on_device(program, random_inputs(role, manifest, batch))
            yield
    finally:
        program.close()


def on_device(program: KernelProgram, inputs: Mapping[Meaning, Array]) -> float:
    """Milliseconds of as many launches as an image has rows, of a middle row, with no wait between them; the median."""
    places = np.arange(len(inputs[bundle_pb2.MEANING_TEMPERATURE]))
    program.put(places, inputs)
    height = program.image_shape[0]
    rows = np.full(len(places), height // 2)
    seen = []
    for _ in range(1 + RUNS_OF_EACH):
        began = time.perf_counter()
        for _ in range(height):
            program.begin(places, rows)
        program.end(places, rows)
        seen.append((time.perf_counter() - began) * 1000)
    return statistics.median(seen[1:])


def first_difference(got: Array, wanted: Array) -> str:
    """Where two arrays of whole images [B,H,W,C] part first, in the order in which pixels are painted."""
    sample, row, column, channel = np.argwhere(got != wanted)[0].tolist()
    values = got[sample, row, column, channel], wanted[sample, row, column, channel]
    return f"first of sample {sample} at row {row}, column {column}, channel {channel}: {values[0]}, not {values[1]}"


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
) -> Iterator[dict[int, float]]:
    """By samples at a time, milliseconds until all are painted: copies, launches and waits, variants by the rule. The
    figures so far, whenever there is one more.
    """
    program = KernelProgram(role, manifest, driver, variants, files, max(BATCHES))
    medians: dict[int, float] = {}
    for batch in BATCHES:
        inputs = random_inputs(role, manifest, batch)
        seen = []
        for _ in range(1 + RUNS):
            began = time.perf_counter()
            replay_raster(program, inputs)
            seen.append((time.perf_counter() - began) * 1000)
        medians[batch] = statistics.median(seen[1:])
        yield medians
    program.close()


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


def checkers(check: Sequence[str], bundle: str, out: Path) -> Iterator[list[str]]:
    """Lines about NVIDIA's checkers, each of which runs the quick check of one bundle's kernel in a process of its own;
    the lines so far, whenever there is one more. check: the command of that check, but for the bundle and its report.
    """
    found = shutil.which("compute-sanitizer")
    if found is None:
        yield ["compute-sanitizer: not on this machine"]
        return
    lines: list[str] = []
    for tool in ("memcheck", "racecheck", "initcheck"):
        log = out.with_name(f"{out.name}-{tool}.txt")
        mine = ("--only", bundle, "--out", str(out.with_name(f"{out.name}-{tool}")))
        command = [found, "--tool", tool, "--error-exitcode", "9", *check, *mine]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CHECKER_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            lines.append(f"- {tool} on {bundle}: not done after {CHECKER_SECONDS} s")
        else:
            log.write_text(done.stdout + done.stderr)
            summary = [line for line in done.stdout.splitlines() if "SUMMARY" in line][-1:]
            lines.append(
                f"- {tool} on {bundle}: exit code {done.returncode}, {' '.join(summary) or 'no summary'}, {log}"
            )
        yield lines


def markdown(reports: Sequence[KernelReport]) -> str:
    """What the kernels showed."""
    lines = ["## Kernels", ""]
    if not reports:
        return "\n".join([*lines, "No bundle has one.", ""])
    sizes = " | ".join(f"{batch:,}" for batch in BATCHES)
    lines += [
        "Milliseconds until so many images are painted: the device alone, by variant; then as a server paints them.",
        "",
        f"| bundle | variant | recorded pixels that differ | log-likelihood off by | loaded in, ms | {sizes} |",
        "|---|---|---:|---:|---:|" + "---:|" * len(BATCHES),
    ]
    for report in reports:
        for each in report.variants:
            row = (report.bundle, each.variant, each.pixels, f"{each.likelihood:.1e}", f"{each.load_ms:.0f}")
            lines.append("| " + " | ".join([*map(str, row), *_times(each.device_ms)]) + " |")
        if report.served_ms:
            lines.append("| " + " | ".join([report.bundle, "served", "", "", "", *_times(report.served_ms)]) + " |")
    lines += [
        "",
        f"Bytes of {MANY} samples are compared between variants, and with those of {ALONE} of them alone.",
        "",
    ]
    for report in reports:
        lines.append(f"- {report.bundle} on {report.device}: {'FAILED' if report.problems else 'nothing differs'}")
        lines += [f"- {report.bundle}: FAILED {problem}" for problem in report.problems]
    return "\n".join([*lines, ""])


def _times(milliseconds: Mapping[int, float]) -> list[str]:
    return [f"{milliseconds[batch]:.2f}" if batch in milliseconds else "" for batch in BATCHES]
