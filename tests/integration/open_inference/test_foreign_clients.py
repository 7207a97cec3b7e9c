"""Triton's client and NVIDIA's load generator, as they come from the registry, against every role."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from inference import open_inference_service_pb2 as oip
from openinference import Stub, ask, infer, with_parameters
from running import ServerProcess
from waiting import PATIENCE

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".tools" / "triton" / "bin" / "python"
PERF_ANALYZER = ROOT / ".tools" / "bin" / "perf_analyzer"

# Every role that there is.
ROLES = {
    *(f"tally.{role}" for role in ("encode", "score", "sample")),
    *(f"tally.score.{role}" for role in ("encode", "score", "sample")),
    *(f"vae.{role}" for role in ("encode", "decode", "score", "sample")),
    *(f"labelled.{role}" for role in ("score", "sample", "features")),
    "shells.classify",
}


@pytest.fixture(scope="module")
def names(stub: Stub) -> list[str]:
    statistics = stub.ModelStatistics(oip.ModelStatisticsRequest(), timeout=PATIENCE)
    return sorted({entry.name for entry in statistics.model_stats})


def test_tritons_client_gets_the_same_of_every_role_in_every_way(
    server: ServerProcess, stub: Stub, names: list[str]
) -> None:
    assert set(names) >= ROLES
    session = [str(PYTHON), str(ROOT / "tests" / "tritonroles.py"), server.address]
    done = subprocess.run(session, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert set(said["roles"]) == set(names)
    for name, ways in said["roles"].items():
        assert ways["once"] == ways["stream"] == ways["aio"], name
        assert all(shape[0] == 3 for shape, _ in ways["once"].values())
    wanted = infer(stub, with_parameters(ask("tally.sample", index=np.zeros(3, np.int64)), seed=5))
    assert said["roles"]["tally.sample"]["once"]["image"] == [[3, 4, 3, 1], wanted["image"].tolist()]
    assert "no model 'nobody'" in said["error"]
    assert said["error"].endswith("(request lost)")
    assert said["after"] == "after"


def test_nvidias_load_generator_measures_every_role_once_and_in_a_stream(
    server: ServerProcess, names: list[str]
) -> None:
    def measure(name: str, *how: str) -> str:
        flags = ("--measurement-mode", "count_windows", "--measurement-request-count", "1", "--request-rate-range", "5")
        # Whatever it finds is stable enough, and it looks until it has found something.
        patience = ("--stability-percentage", "1e9", "--max-trials", "1000", "--input-data", "zero")
        command = [str(PERF_ANALYZER), "-i", "grpc", "-u", server.address, "-m", name, *flags, *patience, *how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        return "" if done.returncode == 0 and "throughput: " in done.stdout else done.stdout + done.stderr

    classes = dict.fromkeys(("labelled.sample", "shells.sample"), ("--request-parameter", "label:1:int"))
    with ThreadPoolExecutor(2 * len(names)) as pool:
        runs = {
            (name, way): pool.submit(measure, name, *classes.get(name, ()), *way)
            for name in names
            for way in ((), ("--streaming",))
        }
    assert {run: found.result() for run, found in runs.items() if found.result()} == {}
