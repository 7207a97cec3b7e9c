"""Corrupted bundles: the catalog refuses each with a reason, or it serves, and then it answers rightly.

Each is loaded by a child process, since what kills onnxruntime kills the process; the parent names the case that did.
"""

from __future__ import annotations

import asyncio
import copy
import faulthandler
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog

import messages
import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import Catalog, ModelVersion, Watcher
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.rpc.roles import RoleMaker
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings

Random = np.random.Generator

# No bundle of a few kilobytes takes so long to refuse, on however busy a machine.
CASE_SECONDS = 120.0
MOST_BYTES = 4 * 2**30
FILES = ("bundle.json", "encode.onnx", "sample.onnx", "golden.npz")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**40, 2**63, 2**70, 1e308, "NaN", "-Infinity", "", "x", "../golden.npz",
    "/etc/passwd", ".", "a\x00b", "MEANING_LABEL", "PROGRAM_RASTER", "x" * 100_000, [], {}, [[]], [0],
    [2**40], [-1], {"a": 1},
)  # fmt: skip


@dataclass
class Result:
    cases: int = 0
    served: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# ---- the parent


def fuzz(cases: int, seed: int, first: int = 0) -> Result:
    """Try cases `first` to `first + cases`, each a function of (seed, case); goes on after one that kills the child."""
    result, case, end = Result(), first, first + cases
    while case < end:
        done = case
        for report in _child(seed, range(case, end), result):
            done = report["case"] + 1
            result.cases += 1
            result.served += report["served"]
            result.reasons[report["reason"][:60]] += 1
            if report["fault"]:
                result.faults.append(f"seed {seed} case {report['case']} ({report['what']}): {report['fault']}")
        case = done + 1 if done < end else end
    return result


def _child(seed: int, cases: range, result: Result) -> Iterator[dict[str, Any]]:
    roots = Path(__file__).parents[1]
    command = [sys.executable, __file__, str(seed), str(cases.start), str(cases.stop)]
    at = cases.start
    # A file, since a full pipe would stop the child.
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env={**os.environ, "PYTHONPATH": str(roots)}
        )
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            at = report["case"] + 1
            yield report
        code = process.wait()
        process.stdout.close()
        if at < cases.stop or code:
            said.seek(0)
            result.cases += 1
            result.faults.append(f"seed {seed} case {at} ended the process with {code}: {said.read()[-1500:]}")


# ---- the child


def corrupt(folder: Path, random: Random) -> str:
    """Damage a bundle in one way; says how. `rehash` makes the manifest agree with the damaged file."""
    file = folder / messages.pick(random, FILES)
    rehash = False
    match random.integers(12):
        case 0:
            what = "missing"
            file.unlink()
        case 1:
            other = folder / messages.pick(random, FILES)
            what = f"swapped with {other.name}"
            one, two = file.read_bytes(), other.read_bytes()
            file.write_bytes(two)
            other.write_bytes(one)
            rehash = bool(random.integers(2))
        case 2:
            target = messages.pick(random, ("/dev/zero", "/etc/hostname", "..", "nowhere", file.name, "/dev/null"))
            what = f"symlink to {target}"
            file.unlink()
            file.symlink_to(target)
        case 3:
            what = "a folder"
            file.unlink()
            file.mkdir()
        case 4 | 5 | 6:
            file = folder / "bundle.json"
            what = _confuse(file, random)
        case _:
            rehash = bool(random.random() < 0.8)
            what = f"damaged, {'hash mended' if rehash else 'hash as it was'}"
            file.write_bytes(messages.damage(file.read_bytes(), random))
    if rehash:
        _rehash(folder)
    return f"{file.name} {what}"


def _confuse(path: Path, random: Random) -> str:
    """Put something else in the place of one to three values anywhere in the manifest."""
    document = json.loads(path.read_text())
    said = []
    for _ in range(int(random.integers(1, 4))):
        inside, keys = document, []
        while True:
            steps = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not steps:
                break
            keys.append(messages.pick(random, steps))
            if isinstance(inside[keys[-1]], dict | list) and random.random() < 0.85:
                inside = inside[keys[-1]]
                continue
            value = copy.deepcopy(messages.pick(random, VALUES))
            said.append(f"{keys} = {str(value)[:30]!r}")
            if random.random() < 0.2:
                del inside[keys[-1]]
            else:
                inside[keys[-1]] = value
            break
    path.write_text(json.dumps(document))
    return "; ".join(said)


def _rehash(folder: Path) -> None:
    try:
        document = json.loads((folder / "bundle.json").read_bytes())
        for entry in document["files"]:
            content = (folder / entry["path"]).read_bytes()
            entry.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        (folder / "bundle.json").write_text(json.dumps(document))
    except (ValueError, KeyError, TypeError, OSError):
        # Where the manifest itself is the damaged file there is nothing to mend.
        return


async def find(models: Path) -> ModelVersion | None:
    """What the catalog makes of the one bundle there."""
    settings = Settings(models=models, threads=1, max_batch=8, slots=8)
    catalog = Catalog(settings, Runtime("cpu", 1), Metrics("0"), Arrivals(), RoleMaker(settings))
    await Watcher(catalog, settings).refresh()
    found = list(catalog)
    assert len(found) <= 1, "there is one bundle"
    return found[0] if found else None


async def wrongness(model: ModelVersion) -> str:
    """What a served model answers wrongly; it may lack roles that the damage took away."""
    if "encode" not in model.endpoints:
        return ""
    images = np.random.default_rng(9).integers(0, 256, (5, toybundle.HEIGHT, toybundle.WIDTH, 1), dtype=np.uint8)
    lane = model.endpoints["encode"]
    assert isinstance(lane, OneShotEndpoint)
    future = asyncio.get_running_loop().create_future()
    job = OneShotJob(
        rows=len(images), future=future, inputs={bundle_pb2.MEANING_IMAGE: images}, wanted=[bundle_pb2.MEANING_MEAN]
    )
    await asyncio.wait_for(ask(lane, job), CASE_SECONDS)
    got = job.output(bundle_pb2.MEANING_MEAN)
    return "" if np.allclose(got, toybundle.encode(images), atol=1e-3) else f"encode answers {got.tolist()}"


async def judge(models: Path) -> tuple[bool, str, str]:
    """Whether the bundle is served, why not, and what is wrong with that."""
    model = await find(models)
    if model is None:
        return False, "not a version", ""
    try:
        if model.serving:
            return True, "serves", await wrongness(model)
        return False, model.problem, "" if model.problem.strip() else "refused without a reason"
    finally:
        await asyncio.to_thread(model.close)


def try_one(seed: int, case: int) -> dict[str, Any]:
    random = np.random.default_rng([seed, case])
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        what = corrupt(toybundle.write(models, rows_back=2), random)
        try:
            served, reason, fault = asyncio.run(judge(models))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault of the catalog
            served, reason = False, ""
            fault = f"{type(error).__name__}: {error}"
    return {"case": case, "what": what, "served": served, "reason": reason or fault, "fault": fault[:1000]}


def main() -> None:
    # Its lines would stand between ours.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    # What asks for all memory must not take it from the machine.
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    seed, start, stop = map(int, sys.argv[1:])
    for case in range(start, stop):
        # A hang ends the process, with the place where it hung.
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        print(json.dumps(try_one(seed, case)), flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
