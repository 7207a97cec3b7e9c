"""`make ablation`: what a change, or a heuristic, is worth: two servers side by side; ablation.md and .json.

A row compares two servers: this checkout with another commit ("commit"), or with itself where calls are traced
("tracing") or something is switched off (the others, see ablated.py). Figures are of the second by the first, less one,
mean ± standard error over pairs:

- Encode and ModelInfer: both servers at once, on one core, as tests/soak/beside.py has it, since a shared machine is
  faster or slower by a fifth within seconds: two equal servers so differ by 3 %, their CPU per call by 2 %.
- EncodeStream, and Encode beside a saturated sampler: in turn, since there a server wants all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import front_end
import isolation
import reports
from ablated import AS_IS, CONTROL, SWITCHES
from ancestral.v1 import inference_service_pb2 as pb
from beside import mean, pinned
from closed_loop import Caller
from rig import CORES
from running import PATIENT, ServerProcess, heed_sigterm
from watching import cpu_seconds

HERE = Path(__file__)
ROOT = HERE.parents[2]
# The commit before the engine was rewritten.
BASE = "2a1c824"
COMMIT = "commit"
# The one that is switched on.
TRACING = "tracing"
CALLS = {"Encode": front_end.ENCODE, "ModelInfer": front_end.INFER}
STREAM, SAMPLER, LATENCY = "EncodeStream", "sampler beside Encode", "p99 of Encode beside a sampler"
# What was measured of a server: answers/s and CPU seconds per answer by measure, and the latency in seconds.
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Side:
    """A server to compare: of a checkout, with the models in a folder, as it is, without a heuristic or with flags."""

    tree: Path
    models: Path
    switch: str = AS_IS
    flags: Sequence[str] = ()

    def server(self) -> ServerProcess:
        launcher = str(HERE.with_name("ablated.py"))
        return ServerProcess(self.models, *PATIENT, *self.flags, program=(launcher, str(self.tree), self.switch))


@dataclass(frozen=True)
class Plan:
    """How much is measured: pairs of measurements, seconds of each, and calls in flight."""

    pairs: int
    seconds: float
    in_flight: Sequence[int]


@dataclass
class Row:
    """Of each measure the second server's figure by the first's, pair by pair."""

    name: str
    says: str
    pairs: int
    seconds: float
    rates: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    latency: list[float] = field(default_factory=list)

    def add(self, first: Figures, second: Figures, rate: str, cost: str = "") -> None:
        self.rates.setdefault(rate, []).append(second["rate"] / first["rate"])
        if cost:
            self.costs.setdefault(cost, []).append(second["cpu"] / first["cpu"])


def compare(name: str, says: str, sides: tuple[Side, Side], plan: Plan, requests: Path) -> Row:
    """One row; requests: a folder to write them to."""
    files, seconds = write_requests(requests), plan.seconds
    row = Row(name, says, plan.pairs, seconds)
    first_core, *others = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        servers = [stack.enter_context(side.server()) for side in sides]
        callers = [stack.enter_context(Caller(others or [first_core])) for _ in sides]
        both = stack.enter_context(ThreadPoolExecutor(2))

        def load(kind: str, method: str, arguments: tuple[object, ...], which: int) -> Figures:
            server = servers[which]
            began = cpu_seconds(server.process.pid)
            found = callers[which].load(kind, server.address, method, *arguments, files[method])
            return {"rate": found["rate"], "cpu": (cpu_seconds(server.process.pid) - began) / found["answers"]}

        for pair in range(plan.pairs):
            with pinned(servers[0].process.pid, {first_core}), pinned(servers[1].process.pid, {first_core}):
                for label, method in CALLS.items():
                    for in_flight in plan.in_flight:
                        measure = f"{label} {in_flight}"
                        first, second = both.map(partial(load, "calls", method, (in_flight, seconds)), (0, 1))
                        row.add(first, second, measure, measure)
            # Who comes first changes: what warms up, or tires, does so for both.
            order = (0, 1) if pair % 2 == 0 else (1, 0)
            streams = {which: load("stream", front_end.ENCODE_STREAM, (seconds,), which) for which in order}
            row.add(streams[0], streams[1], STREAM, STREAM)
            beside = {which: beside_sampler(servers[which], seconds) for which in order}
            row.add(beside[0], beside[1], SAMPLER)
            row.latency.append(beside[1]["p99"] / beside[0]["p99"])
    return row


def beside_sampler(server: ServerProcess, seconds: float) -> Figures:
    """How late Encode is, and how much the sampler paints: images' rows, since images are finished in waves."""

    def painted() -> float:
        return server.metric("ancestral_batch_size_sum", model=isolation.SAMPLER, role="sample")

    before, began = painted(), time.monotonic()
    found = isolation.measure(
        server.address, encoder=isolation.ENCODER, sampler=isolation.SAMPLER, seconds=seconds, rounds=1
    )
    return {"rate": (painted() - before) / (time.monotonic() - began), "p99": found.saturated.p99}


def write_requests(folder: Path) -> dict[str, Path]:
    """The files with what is sent, by method."""
    stream = pb.EncodeStreamRequest(encode=front_end.encode_request(front_end.MESSAGE_IMAGES))
    requests = {
        front_end.ENCODE: front_end.encode_request(1),
        front_end.INFER: front_end.infer_request(),
        front_end.ENCODE_STREAM: stream,
    }
    files = {method: folder / method.rpartition("/")[2] for method in requests}
    for method, request in requests.items():
        files[method].write_bytes(request.SerializeToString())
    return files


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """A worktree of a commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary, "tree")
        git("worktree", "add", "--detach", str(tree), ref)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def traced(url: str) -> tuple[str, ...]:
    """The flags of a server that sends spans of a hundredth of its calls there."""
    return ("--otlp-endpoint", url, "--trace-ratio", "0.01")


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a collector of spans, in a process of its own."""
    program = [sys.executable, str(HERE.parents[1] / "collector.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Its stdin ends with the block, or with this process, and it with that.
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def export(tree: Path, models: Path) -> None:
    """Have a checkout export its own untrained bundles: another one need not be able to read them."""
    parts = ("protos", "server", "exporter", "clients/python", "tests", "tests/benchmarks")
    path = os.pathsep.join(str(tree / part) for part in parts)
    program = "import sys; from pathlib import Path; from rig import untrained"
    program += "; [untrained(recipe, Path(sys.argv[1])) for recipe in sys.argv[2:]]"
    command = [sys.executable, "-c", program, str(models), isolation.ENCODER, isolation.SAMPLER]
    subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": path}, check=True)


def rows(names: Sequence[str], base: str, head: str, plan: Plan, folder: Path) -> Iterator[Row]:
    """The rows by these names, one after the other; `head`: a commit, or "" for the checkout as it lies."""
    with ExitStack() as stack:
        ours = stack.enter_context(checkout(head)) if head else ROOT
        models = folder / "ours"
        export(ours, models)
        as_is = Side(ours, models)
        for name in names:
            if name == COMMIT:
                theirs, their_models = stack.enter_context(checkout(base)), folder / "theirs"
                export(theirs, their_models)
                says, sides = f"{head or 'this checkout'} by {base}", (Side(theirs, their_models), as_is)
            elif name == TRACING:
                says = "1 % of the calls are traced, and their spans sent to a collector"
                sides = (as_is, Side(ours, models, flags=traced(stack.enter_context(collector()))))
            else:
                says = " ".join((SWITCHES[name].__doc__ or "").split())
                sides = (as_is, Side(ours, models, name))
            yield compare(name, says, sides, plan, folder)


def machine() -> str:
    """In words."""
    try:
        model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return f"{CORES} cores, {model[1] if model else platform.machine()}, {platform.system()} {platform.release()}"


def change(ratios: Sequence[float]) -> str:
    value, error = mean(ratios)
    return f"{100 * (value - 1):+.1f} ± {100 * error:.1f}"


def markdown(report: Mapping[str, Any]) -> str:
    lines = [
        f"# Ablation on {report['machine']}",
        "",
        f"What changes, in %, mean ± standard error over pairs: in the row `{COMMIT}` from the other commit to this",
        f"one, in the row `{TRACING}` when it is switched on, in each other row when what it names is switched off.",
        "Figures behind a method are calls in flight. How it is measured: [ablation.py](ablation.py). A heuristic is",
        "worth its place where answers per second fall, or CPU or latency rise, by more than two standard errors",
        f"against the row `{CONTROL}`, of two equal servers.",
        "",
        "| row | second server | pairs | seconds |",
        "|---|---|---:|---:|",
    ]
    lines += [f"| {row['name']} | {row['says']} | {row['pairs']} | {row['seconds']:g} |" for row in report["rows"]]
    for title, key in (("Answers per second", "rates"), ("CPU of the server per answer", "costs")):
        more = [LATENCY] if key == "costs" else []
        measures = list(dict.fromkeys(measure for row in report["rows"] for measure in row[key]))
        lines += ["", f"## {title}", "", f"| row | {' | '.join([*measures, *more])} |"]
        lines.append(f"|---|{'---:|' * (len(measures) + len(more))}")
        for row in report["rows"]:
            cells = [change(row[key][measure]) if measure in row[key] else "" for measure in measures]
            cells += [change(row["latency"])] if more else []
            lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    known = [COMMIT, *SWITCHES, TRACING]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="ROW", help=", ".join(known))
    parser.add_argument("--base", default=BASE, help="the other commit")
    parser.add_argument("--head", default="", help="a commit in place of this checkout as it lies")
    parser.add_argument("--pairs", type=int, default=10, help="of measurements; a row takes a minute with 10 of 0.5 s")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 64], help="calls, of Encode and ModelInfer")
    parser.add_argument("--out", type=Path, default=HERE.parent / "ablation", help="report without suffix")
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error(f"--pairs is {options.pairs}, must be at least 2: one has no error")
    if options.head and options.only != [COMMIT]:
        parser.error(f"--head: only with --only {COMMIT}, since the switches are of this checkout")
    reports.prepare(parser, options.out)
    file, here = options.out.with_suffix(".json"), machine()
    before = json.loads(file.read_text()) if file.exists() else {}
    # Rows of another machine say nothing beside those of this one.
    kept = {row["name"]: row for row in before.get("rows", []) if before["machine"] == here}
    with tempfile.TemporaryDirectory() as temporary:
        plan = Plan(options.pairs, options.seconds, options.in_flight)
        for row in rows(options.only, options.base, options.head, plan, Path(temporary)):
            kept[row.name] = asdict(row)
            # After each: what was measured stays if the next one fails.
            report = {"machine": here, "rows": [kept[name] for name in known if name in kept]}
            reports.write(options.out, markdown(report), report)
            print(f"{row.name}: measured", flush=True)
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    heed_sigterm()
    main()
