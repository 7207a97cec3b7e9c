"""`make restarts`: servers that stop, die and come back, and models that change, under load.

- stops: SIGTERM again and again; whatever the server had begun must have been answered.
- kills: `kill -9` and a new server on the same port, behind the client's own retries; sampling must go on unhurt.
- reloads: versions that appear and disappear; every reply must be that of the version it names.

Exit code 1 if a call was lost or wrong.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import run_soak
import toybundle
import traffic
import versions
from ancestral.bundle.noise import uniforms_of_range
from ancestral_client import AncestralError, Client
from loadgen import Generator, Report
from mixed import LOST, NO_ROOM
from running import ServerProcess, heed_sigterm

JOB: dict[str, Any] = {"kind": "mixed", "limit": 0, "manners": False}
ANSWERED = ("OK", NO_ROOM)
# What callers may hear whose call the server had not begun: nobody listens any more; or it came in the last moment, and
# gRPC's own server cancels what it has received and not yet handed to us. Streams that are refused lose their status.
REFUSED = "UNAVAILABLE"
NOT_BEGUN = ("UNEXPECTED UNAVAILABLE", "UNEXPECTED CANCELLED", f"UNEXPECTED {LOST}")


def stops(models: Path, times: int, seed: int = 1) -> Report:
    """SIGTERM under load; which calls the server began, by its log, and how they ended for their callers."""
    random, failures, ended, seconds = Random(seed), [], Counter[str](), []
    traffic.write_version(models, 1)
    for turn in range(times):
        with (
            ServerProcess(models, "--log-calls", "true") as server,
            Generator(server.address, **JOB, seconds=60, workers=16, seed=turn, interval=0.2, calls=True) as load,
        ):
            reports = load.reports()
            next(reports)
            time.sleep(random.uniform(0.2, 0.8))
            began = time.monotonic()
            code = server.stop(timeout=60)
            seconds.append(time.monotonic() - began)
            load.stop_when_done()
            *_, last = reports
        logged = [json.loads(line) for line in server.log if '"event": "call"' in line]
        begun = {line["request_id"]: line["code"] for line in logged}
        for identity, heard in last["calls"].items():
            ended[heard] += 1
            if heard not in ANSWERED and (begun.get(identity, REFUSED) != REFUSED or heard not in NOT_BEGUN):
                failures.append(f"turn {turn}: {identity}, logged as {begun.get(identity)}, heard {heard}")
        if code:
            failures.append(f"turn {turn}: the server ended with {code}")
    return {"failures": failures, "calls": ended, "slowest_stop_seconds": max(seconds)}


def kills(models: Path, times: int, seed: int = 1) -> Report:
    """`kill -9` in the middle of sampling, and a new server; the samples must be what they would have been."""
    random, failures, port = Random(seed), [], free_port()
    traffic.write_version(models, 1)
    flags = (models, "--port", str(port))
    server, over = ServerProcess(*flags), threading.Event()
    done = Counter[str]()

    def sample(number: int) -> None:
        with Client(f"127.0.0.1:{port}") as client:
            while not over.is_set():
                done["asked"] += 1
                draw, first = number * 1_000_000 + done["asked"], 7
                try:
                    samples = client.sample(traffic.MODEL, 20, seed=draw, first_index=first)
                except AncestralError as error:
                    failures.append(f"{type(error).__name__}: {error}")
                    time.sleep(0.05)
                    continue
                right, _ = toybundle.paint(uniforms_of_range(draw, first, 20, traffic.SHAPE))
                done["right" if np.array_equal(samples.images, right) else "wrong"] += 1

    threads = [threading.Thread(target=sample, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            time.sleep(random.uniform(0.5, 1.5))
            server.process.kill()
            server.stop()
            server = ServerProcess(*flags)
        time.sleep(1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        server.stop()
    if not done["right"]:
        failures.append("no sample was right")
    return {"failures": failures + ["wrong samples"] * done["wrong"], "calls": done}


def reloads(models: Path, times: int, looks: int = 10) -> Report:
    """Each version is published, takes over, and the one before is withdrawn, all under load.

    looks: at the load, each half a second, before a first version is replaced: until then pools grow.
    """
    versions.publish(models, 1)
    with ServerProcess(models, *versions.FLAGS) as server:
        # Memory is looked at when at rest, before and after, and not before a first reload: until then pools grow, and
        # nothing has made the server give back what calls have left.
        first, _ = _under_load(server, models, range(2, 3), looks)
        before = run_soak.settled(server)
        last, slowest = _under_load(server, models, range(3, times + 3), looks)
        after = run_soak.settled(server)
    return {
        "failures": first["problems"] + last["problems"],
        "grown": run_soak.grown(before, after),
        "calls": last["outcomes"],
        "slowest_takeover_seconds": slowest,
        "rss_ratio": after.rss_mib / before.rss_mib,
        "threads": [before.threads, after.threads],
        "files": [before.files, after.files],
    }


def _under_load(server: ServerProcess, models: Path, replacements: range, looks: int) -> tuple[Report, float]:
    """Replace version by version while calls come: what became of them, and the seconds of the slowest takeover."""
    job = {**JOB, "seconds": 36_000, "workers": 16, "seed": replacements.start, "interval": 0.5, "calls": True}
    slowest = 0.0
    with Generator(server.address, **job) as load:
        reports = load.reports()
        for _ in range(looks):
            next(reports)
        for version in replacements:
            began = time.monotonic()
            versions.publish(models, version)
            while server.metric("ancestral_model_serving", model=traffic.MODEL, version=str(version)) != 1:
                assert time.monotonic() < began + 60, f"version {version} does not take over"
                time.sleep(0.05)
            slowest = max(slowest, time.monotonic() - began)
            versions.withdraw(models, version - 1)
        load.stop_when_done()
        *_, last = reports
    return last, slowest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--reloads", type=int, default=50)
    flags = parser.parse_args()
    failed = False
    for what, times in ((stops, flags.stops), (kills, flags.kills), (reloads, flags.reloads)):
        with tempfile.TemporaryDirectory() as folder:
            report = what(Path(folder) / "models", times)
        failures = report["failures"] + report.get("grown", [])
        report["failures"] = [f"{len(failures)} failures", *failures[:10]] if failures else []
        print(f"{what.__name__}, {times} times: {json.dumps(report, indent=2)}", flush=True)
        failed |= bool(report["failures"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
