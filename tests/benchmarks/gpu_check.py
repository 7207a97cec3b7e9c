"""`make gpu-check`: what the bundles of a folder do on a GPU.

First their kernels: right, the same bytes in any company, how fast. Then the server's own rates beside one parallel
pass, isolation and reloads. Then every role's graph on CUDA against the CPU and against itself; at last NVIDIA's
checkers on the smallest kernel. Each part is a process of its own with a time limit, and its findings are kept as they
come: so none that hangs, crashes or loses the device takes those of another with it.

Needs no more than numpy, protobuf and onnxruntime, so that it runs from a plain checkout on a machine that can install
nothing; the server's rates need more, and are left out where that is not there. Without a usable GPU it says so, claims
nothing and exits with 0. Exit code 1: something is wrong on the GPU.
Letters: B rows of a batch, H, W, C image axes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import gpu_kernels
import reports
from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2
from ancestral_client.files import write_json
from ancestral_server.errors import BundleError
from ancestral_server.runtime.bundle import Bundle, read_bundle
from ancestral_server.runtime.golden import replay, replay_raster
from ancestral_server.runtime.kernels.driver import LIBRARY, Driver, NoDevice
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.program import Meaning, OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Runtime, cuda_problem, gpu_of

BATCH = 64
# Images per second on the device are taken with so many at a time.
BATCHES = (1, BATCH, 1024)
# So often, and no longer than so many seconds: a graph of a raster role takes half a second for an image.
RUNS, RUN_SECONDS = 7, 2.0
# Parts of a batch, first row and end, that are run again: alone, as few, and elsewhere in a batch.
PARTS = ((0, 1), (5, 6), (3, 10), (BATCH // 2, BATCH))
# float32 on both sides, TF32 off: what differs is the order of sums.
FLOAT_LIMIT = 1e-4
# A uniform within rounding of a threshold may fall on the other side, and all later pixels of that image with it.
IMAGE_LIMIT = 0.02

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """One role of one bundle."""

    bundle: str
    role: str
    # Largest |a - b| / (1 + |b|) of the float outputs, and the fraction of images that differ in any byte.
    float_difference: float
    image_difference: float
    # The fraction of rows that the device answers otherwise in another place and company, in any byte.
    batch_difference: float
    cpu_images_per_second: float
    # By images at a time.
    device_images_per_second: dict[int, float]
    problem: str = ""

    @property
    def passed(self) -> bool:
        within = self.float_difference <= FLOAT_LIMIT and self.image_difference <= IMAGE_LIMIT
        # A seed gives the same image in whatever batch; of the other roles nobody promises the last bit.
        same = self.batch_difference == 0 or self.role != "sample"
        return within and same and not self.problem


@dataclass(frozen=True)
class Findings:
    """Of a part so far: Markdown, a piece of the JSON document, whether anything is wrong, whether that is all."""

    text: str
    document: dict[str, Any]
    failed: bool = False
    done: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (default: models/)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these bundles alone")
    parser.add_argument("--out", type=Path, default=Path("demo/gpu-check"), help="report without suffix")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu rehearses the script, no more")
    parser.add_argument("--driver", default=LIBRARY, help="NVIDIA's library; another one rehearses the kernels")
    parser.add_argument("--quick", action="store_true", help="few samples: a rehearsal")
    parser.add_argument("--seconds", type=float, default=300, help="how long a part may take")
    parser.add_argument("--part", choices=list(CHECKS), help="this one alone, in this process")
    options = parser.parse_args()

    gpu, problem = gpu_here(options)
    if gpu is None and options.device != "cpu":
        print(f"gpu-check: no usable GPU here ({cuda_problem() or problem}): nothing was checked, nothing is claimed")
        return 0
    if not newest(options.models, options.only):
        print(f"gpu-check: there is a GPU but no bundle in {options.models}/: `make demo` makes some", file=sys.stderr)
        return 1
    reports.prepare(parser, options.out)
    if options.part:
        return alone(options.part, options)

    name = str(gpu or options.device)
    texts, document, failed = [f"# Bundles on {name}", ""], {"device": options.device, "gpu": name}, False
    print(texts[0], flush=True)
    for part in CHECKS:
        found = in_a_process(part, options, sys.argv[1:])
        print(found.text, flush=True)
        texts.append(found.text)
        document |= found.document
        failed = failed or found.failed
        reports.write(options.out, "\n".join(texts), document)
    return 1 if failed else 0


def in_a_process(part: str, options: argparse.Namespace, arguments: Sequence[str]) -> Findings:
    """What a part found until it was done, its time was up, or it crashed."""
    file = of_part(options.out, part)
    file.unlink(missing_ok=True)
    command = [sys.executable, __file__, *arguments, "--part", part]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=options.seconds)
        problem = f"exit code {done.returncode}: " + " / ".join(done.stderr.decode(errors="replace").splitlines()[-8:])
    except subprocess.TimeoutExpired:
        problem = f"not done after {options.seconds:g} s (--seconds)"
    try:
        found = Findings(**json.loads(file.read_text()))
    except FileNotFoundError:
        found = Findings(f"## {part.capitalize()}\n", {})
    return found if found.done else Findings(f"{found.text}\n- FAILED {part}: {problem}\n", found.document, failed=True)


def alone(part: str, options: argparse.Namespace) -> int:
    """One part in this process, its findings in a file of its own whenever there are more."""
    found = Findings("", {})
    for found in CHECKS[part](options):
        write_json(of_part(options.out, part), asdict(found))
    write_json(of_part(options.out, part), asdict(replace(found, done=True)))
    print(found.text)
    return 1 if found.failed else 0


def of_part(out: Path, part: str) -> Path:
    return out.with_name(f"{out.name}-{part}.json")


def gpu_here(options: argparse.Namespace) -> tuple[Driver | None, str]:
    """The GPU that is asked for, or why there is none."""
    try:
        return Driver(gpu_of(options.device) or 0, options.driver), ""
    except NoDevice as error:
        return None, str(error)


def check_kernels(options: argparse.Namespace) -> Iterator[Findings]:
    gpu, _ = gpu_here(options)
    done: list[gpu_kernels.KernelReport] = []
    yield Findings(gpu_kernels.markdown(done), {"kernels": []})
    if gpu is None:
        return
    for bundle in bundles(options):
        manifest = bundle.manifest
        for role in gpu_kernels.roles(manifest):
            for report in gpu_kernels.check(manifest, role, bundle.contents, bundle.golden(), gpu, quick=options.quick):
                every = [*done, report]
                failed = any(each.problems for each in every)
                yield Findings(gpu_kernels.markdown(every), {"kernels": [asdict(each) for each in every]}, failed)
            done.append(report)


def check_graphs(options: argparse.Namespace) -> Iterator[Findings]:
    if options.device != "cpu" and (problem := cuda_problem()):
        yield Findings(f"The graphs were not run on the GPU: {problem}\n", {})
        return
    cpu, results = Runtime("cpu", threads=len_cpus()), list[Result]()
    for bundle in bundles(options):
        for role in bundle.manifest.roles:
            results.append(check_role(cpu, bundle, role, options.device))
            document = {"results": [{**asdict(r), "passed": r.passed} for r in results]}
            yield Findings(markdown(results, options.device), document, not all(r.passed for r in results))


def measure_server(options: argparse.Namespace) -> Iterator[Findings]:
    try:
        import gpu_server
    except ImportError as error:
        yield Findings(f"The server's own rates were not measured: {error}\n", {})
        return
    usable = options.device != "cpu" and cuda_problem() is None
    device = options.device if usable else "auto" if gpu_here(options)[0] else "cpu"
    for rates in gpu_server.measure(options.models, options.only, device, options.driver, quick=options.quick):
        yield Findings(gpu_server.markdown(rates), {"server": [asdict(each) for each in rates]})


def run_checkers(options: argparse.Namespace) -> Iterator[Findings]:
    """On the kernel whose image is the smallest: they take a hundred times as long as it does."""
    sizes = {
        bundle.manifest.name: bundle.manifest.image.height * bundle.manifest.image.width
        for bundle in bundles(options)
        if gpu_kernels.roles(bundle.manifest)
    }
    if sizes and not options.quick:
        name = min(sizes, key=lambda each: sizes[each])
        check = [sys.executable, __file__, "--part", "kernels", "--quick", "--models", str(options.models)]
        check += ["--device", options.device, "--driver", options.driver]
        for lines in gpu_kernels.checkers(check, name, options.out):
            failed = any("exit code 9" in line for line in lines)
            yield Findings("\n".join(["## NVIDIA's checkers", "", *lines, ""]), {"checkers": lines}, failed)


# In this order, the most important first.
CHECKS: dict[str, Callable[[argparse.Namespace], Iterator[Findings]]] = {
    "kernels": check_kernels,
    "server": measure_server,
    "graphs": check_graphs,
    "checkers": run_checkers,
}


def bundles(options: argparse.Namespace) -> Iterator[Bundle]:
    return (read_bundle(folder) for folder in newest(options.models, options.only))


def newest(models: Path, only: Sequence[str] | None = None) -> list[Path]:
    """The newest version of each bundle, or of those of these names."""
    found: dict[str, Path] = {}
    for manifest in models.glob("[!.]*/*/bundle.json"):
        folder = manifest.parent
        if only and folder.parent.name not in only:
            continue
        if folder.parent.name not in found or int(folder.name) > int(found[folder.parent.name].name):
            found[folder.parent.name] = folder
    return [found[name] for name in sorted(found)]


def check_role(runtime: Runtime, bundle: Bundle, role: bundle_pb2.Role, device: str) -> Result:
    name = f"{bundle.manifest.name}/{bundle.manifest.version}"
    reference = program(runtime, bundle, role, "cpu")
    try:
        # With CUDA asked for, a graph of which any node would run on the CPU does not open.
        candidate = program(runtime, bundle, role, device)
        replay(bundle, {role.name: candidate})
    except BundleError as error:
        nan = float("nan")
        return Result(name, role.name, nan, nan, nan, 0.0, {}, str(error))
    inputs = random_inputs(candidate, bundle.manifest, BATCH)
    wanted, got = run(reference, inputs), run(candidate, inputs)
    floats, images = 0.0, 0.0
    for meaning, a in wanted.items():
        b = got[meaning]
        if a.dtype == np.float32:
            floats = max(floats, float(np.max(np.abs(a - b) / (1 + np.abs(a)))))
        else:
            images = max(images, float((a != b).reshape(len(a), -1).any(1).mean()))
    if role.name == "sample" and images:
        # Where images part, so do their likelihoods; that says nothing more.
        floats = 0.0
    rates = {}
    for batch in BATCHES:
        rates[batch] = rate(candidate, random_inputs(candidate, bundle.manifest, batch), batch)
    return Result(
        name, role.name, floats, images, differs_by_batch(candidate, inputs, got), rate(reference, inputs, BATCH), rates
    )


def differs_by_batch(program: Program, inputs: Mapping[Meaning, Array], whole: Mapping[Meaning, Array]) -> float:
    """The fraction of rows, of those in PARTS, that come out otherwise than they did in the `whole` batch.

    As the server runs them there: always in a batch of one size.
    """
    differing, rows = 0, 0
    for first, end in PARTS:
        part = {meaning: array[first:end] for meaning, array in inputs.items()}
        padding = BATCH - (end - first)
        part = {meaning: np.concatenate([array, inputs[meaning][:padding]]) for meaning, array in part.items()}
        unequal = [
            (array[: end - first] != whole[meaning][first:end]).reshape(end - first, -1).any(1)
            for meaning, array in run(program, part).items()
        ]
        differing += int(np.logical_or.reduce(unequal).sum())
        rows += end - first
    return differing / rows


def program(runtime: Runtime, bundle: Bundle, role: bundle_pb2.Role, device: str) -> Program:
    session = runtime.open(bundle.graph(role), on=device)
    if role.program == bundle_pb2.PROGRAM_RASTER:
        return OnnxRasterProgram(role, session, bundle.manifest)
    return OneShotProgram(role, session, bundle.manifest)


def random_inputs(program: Program, manifest: bundle_pb2.Bundle, batch: int) -> dict[Meaning, Array]:
    """Fresh inputs [B, ...] by meaning; of a raster program, whole images [B,H,W,C]."""
    random = np.random.default_rng(1)
    image = manifest.image
    whole = (image.height, image.width, image.channels)
    inputs: dict[Meaning, Array] = {}
    for meaning, tensor in program.inputs.items():
        shape = tuple(tensor.shape)
        if isinstance(program, RasterProgram) and shape:
            shape = whole
        dtype = DTYPES[tensor.dtype]
        if meaning == bundle_pb2.MEANING_KNOWN:
            inputs[meaning] = np.zeros((batch, *shape), np.bool_)
        elif meaning == bundle_pb2.MEANING_TEMPERATURE:
            inputs[meaning] = np.ones(batch, np.float32)
        elif meaning == bundle_pb2.MEANING_LABEL:
            inputs[meaning] = random.integers(0, manifest.label_count, batch)
        elif meaning == bundle_pb2.MEANING_LATENT:
            inputs[meaning] = random.standard_normal((batch, *shape), np.float32)
        elif dtype == np.uint8:
            inputs[meaning] = random.integers(0, 256, (batch, *shape), dtype=np.uint8)
        else:
            inputs[meaning] = random.random((batch, *shape), np.float32)
    return inputs


def run(program: Program, inputs: Mapping[Meaning, Array]) -> dict[Meaning, Array]:
    if isinstance(program, RasterProgram):
        return replay_raster(program, dict(inputs))
    assert isinstance(program, OneShotProgram)
    return program.run(inputs, list(program.outputs))


def rate(program: Program, inputs: Mapping[Meaning, Array], batch: int) -> float:
    """Images per second: the median of several runs after a warm-up."""
    run(program, inputs)
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < RUN_SECONDS:
        began = time.perf_counter()
        run(program, inputs)
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds)


def markdown(results: list[Result], device: str) -> str:
    sizes = " | ".join(f"{device} images/s, {batch} at once" for batch in BATCHES)
    rows = [
        f"## Graphs on {device} against the CPU",
        "",
        f"Batch {BATCH}, float32, TF32 off, only shapes computed on the CPU; medians of up to {RUNS} runs.",
        "By batch: rows of which any byte is another in other places and company, in batches of the same size.",
        "",
        f"| bundle | role | float difference | images that differ | by batch | CPU images/s | {sizes} | |",
        "|---|---|---:|---:|---:|---:|" + "---:|" * len(BATCHES) + "---|",
    ]
    for r in results:
        rates = " | ".join(f"{r.device_images_per_second.get(batch, 0):,.0f}" for batch in BATCHES)
        rows.append(
            f"| {r.bundle} | {r.role} | {r.float_difference:.1e} | {r.image_difference:.1%} | {r.batch_difference:.1%} "
            f"| {r.cpu_images_per_second:,.0f} | {rates} | {'ok' if r.passed else 'FAILED ' + r.problem} |"
        )
    return "\n".join(rows) + "\n"


def len_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
