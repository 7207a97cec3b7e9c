"""`make soak`: minutes of callers that agree on nothing, with clients that vanish and models that change.

Exit code 1 if an answer was wrong, missing or of an unexpected kind, or if the server kept threads, files or memory.
Each minute asks for the same, at a rate that leaves the server room, so that its throughput shows whether it keeps up.
How fast it could be is measured after each minute, beside a fresh one: the machine is not ours alone. Both are reported
and not judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import versions
from beside import Ratios, beside, mean, trend
from loadgen import Generator, Report, one_report
from running import ServerProcess, heed_sigterm
from watching import Usage, usage

Say = Callable[[str], None]

LIMIT_MIB = 4
MAX_RSS_GROWTH = 1.05
# gRPC's own thread pool breathes by a few; a leak is one per call, client or reload.
SPARE_THREADS, SPARE_FILES = 8, 8


def soak(
    models: Path,
    *,
    minutes: int,
    minute: float = 60.0,
    interval: float,
    beside_seconds: float,
    workers: int,
    rate: float,
    seed: int = 1,
    say: Say = print,
) -> Report:
    """Load a server for so many minutes; the figures, with `failures` and `grown` empty where all is well.

    minute: seconds. beside_seconds: how long each comparison with a fresh server takes. rate: calls/s, 0 for as many as
    the workers can make.
    """
    reloads = Reloads(models)
    flags = ("--max-message-mib", str(LIMIT_MIB), *versions.FLAGS)
    job: dict[str, Any] = {"kind": "mixed", "limit": LIMIT_MIB * 2**20, "workers": workers}
    issued, outcomes, problems = 0, Counter[str](), list[str]()
    rates: list[float] = []
    rss: list[float] = []
    ratios: list[Ratios] = []
    with ServerProcess(models, *flags) as server:
        # Every pool has grown and every path was taken once before the first look.
        one_report(server.address, **job, seconds=interval, seed=seed)
        before = settled(server)
        for number in range(minutes):
            # New callers each minute: should they age, that is no throughput of the server's.
            with (
                vanishing(server.address, job, interval),
                reloads.every(interval),
                Generator(
                    server.address, **job, rate=rate, seconds=minute, seed=seed + 1, interval=interval
                ) as generator,
            ):
                rows: list[Report] = [{"seconds": 0.0, "answered": {}, "usage": usage(server.process.pid)}]
                for report in generator.reports():
                    rows.append({**report, "usage": usage(server.process.pid)})
                    say(f"{number:3d} min " + line(*rows[-2:]))
            last = rows[-1]
            issued += last["issued"]
            outcomes.update(last["outcomes"])
            problems += last["problems"]
            rates.append(sum(last["answered"].values()) / last["seconds"])
            rss.append(fmean(row["usage"].rss_mib for row in rows[1:]))
            with ServerProcess(models, *flags) as fresh:
                one_report(fresh.address, **job, seconds=beside_seconds / 3, manners=False, seed=seed)
                ratios.append(beside(server, fresh, {**job, "seconds": beside_seconds, "seed": 1000 + number}))
            say(
                f"{number + 1:3d} min {rates[-1]:12.0f}/s in this minute; "
                f"beside a fresh server {ratios[-1].rate:.3f} of its answers/s, {ratios[-1].cpu:.3f} of its CPU a call"
            )
        after = settled(server)
        started, handled = (server.metric(f"grpc_server_{what}_total") for what in ("started", "handled"))
        running = server.process.poll() is None
    failures = problems
    if issued != outcomes.total():
        failures.append(f"{issued} calls were issued, {outcomes.total()} ended")
    if started != handled:
        failures.append(f"the server began {started:.0f} calls and ended {handled:.0f}")
    if not running:
        failures.append("the server is gone")
    return {
        "failures": failures,
        "grown": grown(before, after),
        "issued": issued,
        "outcomes": outcomes,
        "reloads": reloads.newest - 1,
        "rates": rates,
        "rate_beside": [ratio.rate for ratio in ratios],
        "cpu_beside": [ratio.cpu for ratio in ratios],
        "rss_mib": rss,
        "before": vars(before),
        "after": vars(after),
    }


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
        with Generator(address, **{**job, "workers": 8}, seconds=600, seed=random.randrange(2**30)):
            time.sleep(random.uniform(0.5, 2.5))

    with _again_and_again(once, interval):
        yield


class Reloads:
    """New versions that take over and old ones that go, where the server watches its folder."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self.newest = 1
        versions.publish(models, self.newest)

    @contextmanager
    def every(self, interval: float) -> Iterator[None]:
        with _again_and_again(self._once, interval):
            yield

    def _once(self, _: Random) -> None:
        versions.publish(self._models, self.newest + 1)
        # Time to take over: a version is withdrawn only when the next one serves.
        time.sleep(2)
        versions.withdraw(self._models, self.newest)
        self.newest += 1


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


def line(was: Report, now: Report) -> str:
    """One row of the table: right answers per second by kind since the row before, and what the server uses."""
    span = max(1e-9, now["seconds"] - was["seconds"])
    rates = {kind: (count - was["answered"].get(kind, 0)) / span for kind, count in sorted(now["answered"].items())}
    others = {code: count for code, count in sorted(now["outcomes"].items()) if code != "OK"}
    used: Usage = now["usage"]
    return (
        f"{now['seconds']:4.0f} s  {sum(rates.values()):6.0f}/s  p50 {now['p50'] * 1e3:5.1f}"
        f" p99 {now['p99'] * 1e3:6.1f} ms  RSS {used.rss_mib:5.0f} MiB  {used.threads} threads  {used.files} files"
        f"  CPU {(used.cpu_seconds - was['usage'].cpu_seconds) / span:4.0%}  "
        + " ".join(f"{kind} {rate:.0f}" for kind, rate in rates.items())
        + "  | "
        + " ".join(f"{code} {count}" for code, count in others.items())
    )


def summary(report: Report) -> str:
    rates, rate, cpu = report["rates"], report["rate_beside"], report["cpu_beside"]
    return (
        f"throughput: the last minute's is {rates[-1] / rates[0]:.1%} of the first's; by the trend of all minutes the "
        f"end's is {trend(rates)} of the beginning's\n"
        f"beside a fresh server, on the same core: {mean(rate)} of its throughput, {mean(cpu)} of its CPU a call; by "
        f"the trend the end's are {trend(rate)} and {trend(cpu)} of the beginning's\n"
        f"RSS under load: by the trend the end's is {trend(report['rss_mib'])} of the beginning's"
    )


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=3, help="of load; the comparisons take half as long again")
    parser.add_argument("--interval", type=float, default=10, help="seconds between reports")
    parser.add_argument("--workers", type=int, default=24, help="calls in flight")
    parser.add_argument(
        "--rate", type=float, default=300, help="calls per second; 0: each worker calls again as soon as it is answered"
    )
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    if flags.minutes < 1:
        parser.error(f"--minutes is {flags.minutes}, must be at least 1")
    if not 0 <= flags.rate < float("inf"):
        parser.error(f"--rate is {flags.rate}, must be 0 or more")
    with tempfile.TemporaryDirectory() as folder:
        report = soak(
            Path(folder) / "models",
            minutes=flags.minutes,
            interval=flags.interval,
            beside_seconds=15,
            workers=flags.workers,
            rate=flags.rate,
            seed=flags.seed,
            # For those who watch through a pipe.
            say=partial(print, flush=True),
        )
    print(json.dumps(report, indent=2))
    print(summary(report))
    sys.exit("\n".join(report["failures"] + report["grown"]) or 0)


if __name__ == "__main__":
    main()
