"""`make bulk-check`: 100,000 images from Parquet to Parquet, by both engines of `ancestral bulk`, with deaths.

First each engine alone, for its rate and its memory. Then again, while a worker is killed (of the local engine, whose
workers are threads, the whole command, which is then given again) and the server, which comes back. Exit code 1 if a
row is missing, twice, or other than what `Client.encode` gives, or if memory grew with the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from ancestral_client import Client
from loadgen import Report
from run_restarts import free_port
from running import PATIENT, ServerProcess, heed_sigterm
from watching import usage

ENGINES = ("local", "ray")
# How Ray calls a process in which an actor of a data set lives.
ACTOR = re.compile(rb"ray::.*MapWorker")
# Of a process, from a quarter of the parts to all of them: what is held grows with no more than the parts on their way.
MOST_GROWTH, LEAST_GROWTH_MIB = 1.2, 32.0
LOOK_SECONDS = 0.1


def write_images(path: Path, rows: int, shape: tuple[int, int, int]) -> None:
    """Raw pixels and their number, row group by row group."""
    schema = pa.schema([("id", pa.int64()), ("image", pa.binary())])
    random = np.random.default_rng(7)
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, 10_000):
            count = min(10_000, rows - first)
            images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
            cells = [image.tobytes() for image in images]
            writer.write_table(pa.table([list(range(first, first + count)), cells], schema=schema))


def check(source: Path, out: Path, address: str, model: str, tolerance: float) -> list[str]:
    """What is wrong with the output: each row has to be there once, in order, and as the client has it.

    tolerance: how far a mean may be from it, relatively; 0 is bit for bit.
    """
    found = pyarrow.dataset.dataset(out).to_table(columns=["id", "mean", "error"])
    rows = pq.read_metadata(source).num_rows
    if found.column("id").to_pylist() != list(range(rows)):
        return [f"{out.name}: has {found.num_rows} rows of {rows}, or in another order"]
    if found.column("error").null_count != rows:
        return [f"{out.name}: {rows - found.column('error').null_count} rows have an error"]
    with Client(address, priority="batch") as client:
        shape = client.model(model).image_shape

        def images() -> Iterator[Any]:
            for batch in pq.ParquetFile(source).iter_batches(64, columns=["image"]):
                yield np.frombuffer(b"".join(batch.column(0).to_pylist()), np.uint8).reshape(-1, *shape)

        right = client.encode(model, images()).mean
    means = found.column("mean").combine_chunks().flatten().to_numpy().reshape(right.shape)
    differing = np.flatnonzero((abs(means - right) > tolerance * abs(right)).any(axis=1))
    if len(differing):
        return [f"{out.name}: {len(differing)} rows differ, the first is {differing[0]}: {abs(means - right).max()}"]
    return []


class Running:
    """One `ancestral bulk`, its parts and its processes."""

    def __init__(self, source: Path, out: Path, model: str, address: str, engine: str, part_rows: int) -> None:
        self.out = out
        rows = pq.read_metadata(source).num_rows
        self.parts = -(-rows // part_rows)
        command = [str(Path(sys.executable).with_name("ancestral")), "bulk", "encode", model, str(source), str(out)]
        command += ["--engine", engine, "--workers", "2", "--address", address, "--part-rows", str(part_rows)]
        self._command = [*command, "--wait", "600", "--json"]
        self._begin()
        self.peaks: list[dict[int, float]] = [{}, {}]
        """Resident MiB of each process: most until a quarter of the parts was there, and most after that."""
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _begin(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def done(self) -> int:
        return len(list(self.out.glob("part-*.parquet")))

    def reached(self, share: float) -> bool:
        """Waits until that share of the parts is there; False if it ended before."""
        while self.process.poll() is None:
            if self.done() >= share * self.parts:
                return True
            time.sleep(LOOK_SECONDS / 10)
        return False

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            late = self.done() > self.parts / 4
            for pid in (self.process.pid, *actors(self.process.pid)):
                try:
                    now = usage(pid).rss_mib
                except (OSError, KeyError, IndexError):
                    continue  # it ended meanwhile
                self.peaks[late][pid] = max(self.peaks[late].get(pid, 0.0), now)

    def again(self) -> None:
        """Kill the command, and give it again."""
        self.process.kill()
        self.process.communicate()
        self._begin()

    def end(self) -> Report:
        said, problems = self.process.communicate()
        self._over.set()
        self._watch.join()
        failures = [] if self.process.returncode == 0 else [f"{self.out.name}: ended with {problems.strip()}"]
        early, late = self.peaks
        grown = [
            f"a process grew from {early[pid]:.0f} to {late[pid]:.0f} MiB"
            for pid in early.keys() & late.keys()
            if late[pid] > max(early[pid] * MOST_GROWTH, early[pid] + LEAST_GROWTH_MIB)
        ]
        times = sorted(path.stat().st_mtime for path in self.out.glob("part-*.parquet"))
        return {
            "failures": failures,
            "grown": grown,
            "peak_mib": [round(max(peak.values(), default=0.0)) for peak in self.peaks],
            # Between the first part and the last: Ray starts for seconds.
            "parts_per_second": (len(times) - 1) / max(times[-1] - times[0], 1e-9) if times else 0.0,
            **(json.loads(said) if self.process.returncode == 0 else {}),
        }


def actors(pid: int) -> list[int]:
    """Descendants of a process that are actors of Ray."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        todo += below
        found += [each for each in below if _is_actor(each)]
    return found


def _is_actor(pid: int) -> bool:
    try:
        return ACTOR.search(Path(f"/proc/{pid}/cmdline").read_bytes()) is not None
    except OSError:
        return False


def undisturbed(
    source: Path, out: Path, models: Path, model: str, engine: str, part_rows: int, tolerance: float = 0.0
) -> Report:
    with ServerProcess(models, *PATIENT) as server:
        report = Running(source, out, model, server.address, engine, part_rows).end()
        report["failures"] += check(source, out, server.address, model, tolerance)
    return report


def killed(
    source: Path, out: Path, models: Path, model: str, engine: str, part_rows: int, tolerance: float = 0.0
) -> Report:
    """A worker dies when a third is done, the server when two thirds are; each comes back."""
    flags = (models, *PATIENT, "--port", str(free_port()))
    server = ServerProcess(*flags)
    deaths = []
    try:
        running = Running(source, out, model, server.address, engine, part_rows)
        if running.reached(1 / 3):
            if engine == "local":
                running.again()
                deaths.append("the command")
            for pid in actors(running.process.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
                deaths.append("a worker")
        if running.reached(2 / 3):
            server.stop(signal.SIGKILL)
            server = ServerProcess(*flags)
            deaths.append("the server")
        report = running.end()
        report["failures"] += check(source, out, server.address, model, tolerance)
    finally:
        server.stop()
    return {**report, "deaths": deaths}


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--part-rows", type=int, default=2_000)
    parser.add_argument("--model", default="mnist-vae", help="recipe of the model, untrained")
    flags = parser.parse_args()
    from rig import untrained  # with torch, which a test in short needs not

    failed = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, models = folder / "in.parquet", folder / "models"
        image = untrained(flags.model, models)[0].image
        write_images(source, flags.rows, (image.height, image.width, image.channels))
        for what in (undisturbed, killed):
            for engine in ENGINES:
                out = folder / f"{what.__name__}-{engine}"
                report = what(source, out, models, flags.model, engine, flags.part_rows)
                report["rows_per_second"] = report.pop("parts_per_second") * flags.part_rows
                print(f"{engine}, {what.__name__}: {json.dumps(report, indent=2)}", flush=True)
                failed |= bool(report["failures"] or report["grown"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
