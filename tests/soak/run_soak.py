"""`make soak`: minutes of callers that agree on nothing, with clients that vanish and models that change.

Exit code 1 if an answer was wrong, missing or of an unexpected kind, or if the server kept threads, files or memory.
Throughput is reported, not judged: the machine is not ours alone. So each minute asks for the same, and at the end the
server takes turns with a fresh one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

import versions
from loadgen import Generator, Report, one_report
from running import ServerProcess, heed_sigterm
from watching import Usage, usage

Say = Callable[[str], None]

LIMIT_MIB = 4
MAX_RSS_GROWTH = 1.05
# gRPC's own thread pool breathes by a few; a leak is one per call, client or reload.
SPARE_THREADS, SPARE_FILES = 8, 8


class Estimate(NamedTuple):
    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ± {self.standard_error:.1%}"


def soak(
    models: Path, *, seconds: float, interval: float, workers: int, pairs: int, seed: int = 1, say: Say = print
) -> Report:
    """Load a server for so long; the figures, with `failures` empty where all is well.

    pairs: how often it then takes turns with a fresh server.
    """
    versions.publish(models, 1)
    flags = ("--max-message-mib", str(LIMIT_MIB), *versions.FLAGS)
    job: dict[str, Any] = {"kind": "mixed", "limit": LIMIT_MIB * 2**20}
    with ServerProcess(models, *flags) as server:
        pid = server.process.pid
        # Every pool has grown and every path was taken once before the first look.
        one_report(server.address, **job, seconds=interval, workers=workers, seed=seed)
        before = settled(server)
        rows: list[Report] = []
        with vanishing(server.address, job, interval), reloading(models, interval):
            began = usage(pid)
            with Generator(
                server.address, **job, seconds=seconds, workers=workers, seed=seed + 1, interval=interval
            ) as g:
                for report in g.reports():
                    now = usage(pid)
                    rows.append({**report, "usage": now, "cpu": now.cpu_seconds - began.cpu_seconds})
                    say(line(rows))
        after = settled(server)
        with ServerProcess(models, *flags) as fresh:
            against_fresh = in_turn(server, fresh, pairs, {**job, "seconds": interval, "workers": workers})
        started, handled = (server.metric(f"grpc_server_{what}_total") for what in ("started", "handled"))
        running = server.process.poll() is None
    last = rows[-1]
    failures = list(last["problems"])
    if last["issued"] != sum(last["outcomes"].values()):
        failures.append(f"{last['issued']} calls were issued, {sum(last['outcomes'].values())} ended")
    if started != handled:
        failures.append(f"the server began {started:.0f} calls and ended {handled:.0f}")
    if not running:
        failures.append("the server is gone")
    failures += grown(before, after)
    return {
        "failures": failures,
        "issued": last["issued"],
        "outcomes": last["outcomes"],
        "throughput_ratio": throughput_ratio(rows),
        "throughput_trend": trend(rows)._asdict(),
        "throughput_against_fresh": against_fresh._asdict(),
        "before": vars(before),
        "after": vars(after),
    }


def in_turn(old: ServerProcess, fresh: ServerProcess, pairs: int, job: dict[str, Any]) -> Estimate:
    """Right answers of one server by those of another: the same well-mannered callers, so many times in turn."""
    ratios = []
    for pair in range(pairs):
        answers = {}
        for server in (old, fresh) if pair % 2 else (fresh, old):
            report = one_report(server.address, **job, seed=1000 + pair, manners=False)
            answers[server] = sum(report["answered"].values())
        ratios.append(answers[old] / answers[fresh])
    return Estimate(fmean(ratios), stdev(ratios) / math.sqrt(pairs) if pairs > 1 else math.inf)


def settled(server: ServerProcess) -> Usage:
    """What the server uses once every call has ended, those of vanished callers too."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if server.metric("grpc_server_started_total") == server.metric("grpc_server_handled_total"):
            break
        time.sleep(0.2)
    # Connections close a moment after their last call.
    time.sleep(2)
    return usage(server.process.pid)


@contextmanager
def vanishing(address: str, job: dict[str, Any], interval: float) -> Iterator[None]:
    """Clients that are killed in the middle of their calls."""

    def once(random: Random) -> None:
        with Generator(address, **job, seconds=600, workers=8, seed=random.randrange(2**30)):
            time.sleep(random.uniform(0.5, 2.5))

    with _again_and_again(once, interval):
        yield


@contextmanager
def reloading(models: Path, interval: float) -> Iterator[None]:
    """New versions that take over and old ones that go, where the server watches its folder."""
    newest = 1

    def once(_: Random) -> None:
        nonlocal newest
        versions.publish(models, newest + 1)
        # Time to take over: a version is withdrawn only when the next one serves.
        time.sleep(2)
        versions.withdraw(models, newest)
        newest += 1

    with _again_and_again(once, interval):
        yield


@contextmanager
def _again_and_again(once: Callable[[Random], None], interval: float) -> Iterator[None]:
    over, random = threading.Event(), Random(3)

    def work() -> None:
        while not over.wait(interval):
            once(random)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def answered_between(rows: list[Report], start: float, stop: float) -> float:
    """Right answers per second between two times, from the reports next to them."""
    nearest = [min(rows, key=lambda row: abs(row["seconds"] - at)) for at in (start, stop)]
    counts = [sum(row["answered"].values()) for row in nearest]
    span: float = nearest[1]["seconds"] - nearest[0]["seconds"]
    return float((counts[1] - counts[0]) / max(1e-9, span))


def throughput_ratio(rows: list[Report]) -> float:
    """Right answers/s of the last minute by those of the first; of a short run, of its last and first third."""
    begin, end = rows[0]["seconds"], rows[-2]["seconds"] if len(rows) > 2 else rows[-1]["seconds"]
    span = min(60.0, (end - begin) / 3)
    first = answered_between(rows, begin, begin + span)
    return answered_between(rows, end - span, end) / first if first else float("nan")


def trend(rows: list[Report]) -> Estimate:
    """Throughput at the end by that at the beginning, on the straight line through all reports but the last.

    The error is that of independent reports: it knows nothing of a machine that gets slower meanwhile.
    """
    if len(rows) < 5:
        return Estimate(math.nan, math.nan)
    seconds = np.array([row["seconds"] for row in rows[:-1]])
    answers = np.array([sum(row["answered"].values()) for row in rows[:-1]])
    rates = np.diff(answers) / np.diff(seconds)
    along = (seconds[1:] - seconds[1]) / (seconds[-1] - seconds[1])
    (slope, begin), covariance = np.polyfit(along, rates, 1, cov=True)
    return Estimate(1 + slope / begin, math.sqrt(covariance[0, 0]) / begin)


def grown(before: Usage, after: Usage) -> list[str]:
    limits = {
        "rss_mib": before.rss_mib * MAX_RSS_GROWTH + 10,
        "threads": before.threads + SPARE_THREADS,
        "files": before.files + SPARE_FILES,
    }
    return [
        f"{name} grew from {getattr(before, name):.0f} to {getattr(after, name):.0f}, more than {limit:.0f}"
        for name, limit in limits.items()
        if getattr(after, name) > limit
    ]


def line(rows: list[Report]) -> str:
    """One row of the table: right answers per second by kind since the row before, and what the server uses."""
    nothing: Report = {"seconds": 0.0, "answered": {}, "cpu": 0.0}
    now, was = rows[-1], rows[-2] if len(rows) > 1 else nothing
    span = max(1e-9, now["seconds"] - was["seconds"])
    rates = {kind: (count - was["answered"].get(kind, 0)) / span for kind, count in sorted(now["answered"].items())}
    others = {code: count for code, count in sorted(now["outcomes"].items()) if code != "OK"}
    used: Usage = now["usage"]
    return (
        f"{now['seconds']:6.0f} s  {sum(rates.values()):6.0f}/s  p50 {now['p50'] * 1e3:5.1f}"
        f" p99 {now['p99'] * 1e3:6.1f} ms  RSS {used.rss_mib:5.0f} MiB  {used.threads} threads  {used.files} files"
        f"  CPU {(now['cpu'] - was['cpu']) / span:4.0%}  "
        + " ".join(f"{kind} {rate:.0f}" for kind, rate in rates.items())
        + "  | "
        + " ".join(f"{code} {count}" for code, count in others.items())
    )


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--interval", type=float, default=10, help="seconds between reports")
    parser.add_argument("--workers", type=int, default=24, help="calls in flight")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(
            Path(folder) / "models",
            seconds=flags.minutes * 60,
            interval=flags.interval,
            workers=flags.workers,
            pairs=max(4, round(flags.minutes)),
            seed=flags.seed,
            # For those who watch through a pipe.
            say=partial(print, flush=True),
        )
    print(json.dumps(report, indent=2))
    over_all, against_fresh = (Estimate(**report[f"throughput_{what}"]) for what in ("trend", "against_fresh"))
    print(
        f"last minute's throughput is {report['throughput_ratio']:.1%} of the first's, the end's, by the trend of all, "
        f"{over_all} of the beginning's, whatever the machine did meanwhile; in turn with a fresh server, with the "
        f"same callers, it is {against_fresh} of that one's"
    )
    sys.exit("\n".join(report["failures"]) or 0)


if __name__ == "__main__":
    main()
