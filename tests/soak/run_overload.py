"""`make overload`: three times more calls than can be served, and what dynamic batching is worth.

Both on models that limit the server: see LAYERS. Under overload calls arrive open loop, at random times, whatever
became of those before. Exit code 1 if an answer was wrong or a call ended in an unexpected way; timing is reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import traffic
from loadgen import Generator, Report, one_report, quantiles
from running import ServerProcess, heed_sigterm
from watching import Watch

# A run of 64 images takes some 180 and 90 milliseconds: so the model is what limits the server, and not the load
# generator that shares its two cores. To ask and to be refused costs both together 0.6 ms, as a bare echo does: with
# calls a quarter as dear, and so four times as many, overload would measure gRPC.
LAYERS, BATCHING_LAYERS = 3200, 1600
# Images of a call under overload.
IMAGES = 16
BATCHING_CALLERS = 64
# Of the peak: eight keep one batch running and one waiting; of twelve some are refused, and come again when told to.
PEAK_CALLERS = 8, 12
USUAL_SHARE = 0.7
OVERLOAD = 3.0
BIN_SECONDS = 0.2
EXPECTED = {"OK", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED refused", "RESOURCE_EXHAUSTED refused"}


def batching(models: Path, seconds: float) -> Report:
    """Single images through the same server, with and without batches; medians of three rounds.

    Closed loop for the rate. For the latency the same open-loop load on both, which batch size 1 can still serve; and
    what the callers of the closed loop waited.
    """
    rounds: dict[str, list[Report]] = {"1": [], "64": []}
    unexpected: set[str] = set()

    def median(most: str, callers: int, figure: str) -> float:
        return float(np.median([r[figure] for r in rounds[most] if r["callers"] == callers]))

    for _ in range(3):
        for most, reports in rounds.items():
            with ServerProcess(models, "--max-batch", most) as server:
                # Batch size 1 is given its best: callers enough to keep it busy, too few to queue.
                for callers in {"1": (2, BATCHING_CALLERS), "64": (BATCHING_CALLERS,)}[most]:
                    report = one_report(server.address, kind="closed", concurrency=callers, seconds=seconds)
                    reports.append({**report, "callers": callers})
                usual_rate = USUAL_SHARE * median("1", 2, "rate")
                usual = one_report(server.address, kind="open", phases=[(usual_rate, seconds)], deadline_seconds=10)
                took = {code: [t for _, t, c in usual["calls"] if c == code] for _, _, code in usual["calls"]}
                reports.append({"callers": 0, "p95": quantiles(took.pop("OK"), 0.95)[0]})
                unexpected |= took.keys() - EXPECTED

    single, batched = median("1", BATCHING_CALLERS, "rate"), median("64", BATCHING_CALLERS, "rate")
    return {
        "unexpected": sorted(unexpected),
        "rate_of_single": single,
        "rate_of_single_at_2_callers": median("1", 2, "rate"),
        "rate_of_batched": batched,
        "ratio": batched / single,
        "p95_of_single": median("1", BATCHING_CALLERS, "p95"),
        "p95_of_batched": median("64", BATCHING_CALLERS, "p95"),
        "p95_of_single_at_the_same_load": median("1", 0, "p95"),
        "p95_of_batched_at_the_same_load": median("64", 0, "p95"),
    }


def overload(models: Path, seconds: float, usual_seconds: float, rounds: int) -> Report:
    """Rounds of usual load, overload and usual load again, each between two measurements of capacity.

    Other work on the machine changes its speed within minutes: so each round is held against what came just before it,
    goodput against capacity just before and just after, and what compares speeds is the median of the rounds. All else
    is the worst of them.
    """
    opened: dict[str, Any] = {"kind": "open", "images": IMAGES}
    with ServerProcess(models) as server:
        peaks = [_peak(server.address, usual_seconds)]
        overloads, rss, seen = [], [], set()
        for _ in range(rounds):
            peak = max(peaks[-1].values())
            phases = [(USUAL_SHARE * peak, 2 * usual_seconds)]
            usual = one_report(server.address, **opened, phases=phases, deadline_seconds=10)
            usual_p99 = quantiles([took for _, took, code in usual["calls"] if code == "OK"], 0.99)[0]
            phases = [(OVERLOAD * peak, seconds), (USUAL_SHARE * peak, usual_seconds)]
            # What callers under overload are willing to wait, so also the bound on the latency of the accepted.
            job = {**opened, "phases": phases, "deadline_seconds": 2 * usual_p99}
            with Watch(server.process.pid) as watch, Generator(server.address, **job) as generator:
                during, later = generator.reports()
            peaks.append(_peak(server.address, usual_seconds))
            overloads.append(_overloaded(during, later, peaks[-2:], usual_p99))
            rss += [usage.rss_mib for usage in watch.seen]
            seen |= {code for report in (usual, during, later) for _, _, code in report["calls"]}
    speeds, worst = ("goodput_ratio", "accepted_p99_ratio", "recovery_seconds"), ("refused_max", "expired")
    return {
        **{figure: float(np.median([each[figure] for each in overloads])) for figure in speeds},
        **{figure: max(each[figure] for each in overloads) for figure in worst},
        "unexpected": sorted(seen - EXPECTED),
        "peaks": peaks,
        "rss_start_mib": rss[0],
        "rss_max_mib": max(rss),
        "rss_ratio": max(rss) / rss[0],
        "rounds": overloads,
    }


def _peak(address: str, seconds: float) -> dict[int, float]:
    """Capacity in closed loop, calls/s, by the number of callers."""
    closed: dict[str, Any] = {"kind": "closed", "seconds": seconds, "images": IMAGES}
    return {callers: one_report(address, **closed, concurrency=callers)["rate"] for callers in PEAK_CALLERS}


def _overloaded(during: Report, later: Report, peaks: list[dict[int, float]], usual_p99: float) -> Report:
    """What became of the calls of one overload and of those after it; peaks: before and after."""
    took = {code: [t for _, t, c in during["calls"] if c == code] for code in EXPECTED}
    refused = took["DEADLINE_EXCEEDED refused"] + took["RESOURCE_EXHAUSTED refused"]
    accepted_p99 = quantiles(took["OK"], 0.99)[0]
    return {
        "usual_p99": usual_p99,
        "offered_rate": len(during["calls"]) / during["seconds"],
        "goodput": len(took["OK"]) / during["seconds"],
        "goodput_ratio": len(took["OK"]) / during["seconds"] / max(np.mean([p[n] for p in peaks]) for n in peaks[0]),
        "accepted": len(took["OK"]),
        "accepted_p99": accepted_p99,
        "accepted_p99_ratio": accepted_p99 / usual_p99,
        "refused": len(refused),
        "refused_p99": quantiles(refused, 0.99)[0],
        "refused_max": max(refused, default=0.0),
        "expired": len(took["DEADLINE_EXCEEDED"]),
        "recovery_seconds": recovery(later["calls"], usual_p99),
        "later_p99_ratio": quantiles([took for _, took, code in later["calls"] if code == "OK"], 0.99)[0] / usual_p99,
        "generator_lag_p99": during["lag"],
    }


def recovery(calls: list[tuple[float, float, str]], usual_p99: float) -> float:
    """Seconds until calls are served as usual for a second: of each fifth of it, the median within the usual p99."""
    bins: dict[int, list[float]] = {}
    for at, took, code in calls:
        bins.setdefault(int(at / BIN_SECONDS), []).append(took if code == "OK" else float("inf"))
    slow = {number for number, seconds in bins.items() if float(np.median(seconds)) > usual_p99}
    second = round(1 / BIN_SECONDS)
    return next(n for n in range(max(bins) + 2) if slow.isdisjoint(range(n, n + second))) * BIN_SECONDS


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="length of an overload")
    parser.add_argument("--rounds", type=int, default=3, help="how many overloads")
    parser.add_argument("--usual-seconds", type=float, default=10, help="length of every other measurement")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models, dear = Path(folder) / "models", Path(folder) / "dear"
        traffic.write_version(models, 1, LAYERS)
        traffic.write_version(dear, 1, BATCHING_LAYERS)
        report = {"batching": batching(dear, flags.usual_seconds / 2)}
        print(json.dumps(report, indent=2), flush=True)
        report["overload"] = overload(models, flags.seconds, flags.usual_seconds, flags.rounds)
    print(json.dumps(report["overload"], indent=2))
    print(verdict(report))
    unexpected = [*report["batching"]["unexpected"], *report["overload"]["unexpected"]]
    sys.exit(f"calls ended with {unexpected}" if unexpected else 0)


def verdict(report: Report) -> str:
    """Each goal beside what was measured."""
    b, o = report["batching"], report["overload"]
    rows = [
        ("batching: rate against batch size 1", b["ratio"], ">=", 3.0),
        (
            "batching: rate against batch size 1 at its best",
            b["rate_of_batched"] / b["rate_of_single_at_2_callers"],
            ">=",
            3.0,
        ),
        ("batching: p95 against batch size 1, 64 callers", b["p95_of_batched"] / b["p95_of_single"], "<=", 1.0),
        (
            "batching: p95 against batch size 1, the same load",
            b["p95_of_batched_at_the_same_load"] / b["p95_of_single_at_the_same_load"],
            "<=",
            1.0,
        ),
        ("overload: goodput of the peak", o["goodput_ratio"], ">=", 0.9),
        ("overload: p99 of the accepted, of usual", o["accepted_p99_ratio"], "<=", 2.0),
        ("overload: slowest refusal, ms", o["refused_max"] * 1e3, "<=", 20.0),
        ("overload: calls that were neither served nor refused", o["expired"], "<=", 0),
        ("overload: RSS, of its start", o["rss_ratio"], "<=", 1.1),
        ("overload: seconds until latency is usual again", o["recovery_seconds"], "<=", 1.0),
    ]
    return "\n".join(
        f"{'holds' if holds else 'MISSED':7}{what}: {value:.3g} {sign} {goal:g}"
        for what, value, sign, goal in rows
        for holds in (value >= goal if sign == ">=" else value <= goal,)
    )


if __name__ == "__main__":
    main()
