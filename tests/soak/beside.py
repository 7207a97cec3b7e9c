"""A soaked server beside a fresh one, on one core at the same time, so that both meet the same machine.

A shared machine is faster or slower by a fifth, within seconds and over hours: of two equal servers that take turns of
ten seconds, one seems as much faster. Two that share a core are slowed down by the same neighbours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from loadgen import one_report
from running import ServerProcess
from watching import usage


class Estimate(NamedTuple):
    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ± {self.standard_error:.1%}"


class Ratios(NamedTuple):
    """One server by another: right answers per second, and processor time of the server for each."""

    rate: float
    cpu: float


def beside(soaked: ServerProcess, fresh: ServerProcess, job: dict[str, Any]) -> Ratios:
    """Both at once, each with well-mannered callers that ask the same."""
    first, *rest = sorted(os.sched_getaffinity(0))

    def load(server: ServerProcess) -> tuple[float, float]:
        pid = server.process.pid
        with pinned(pid, {first}):
            began = usage(pid).cpu_seconds
            report = one_report(server.address, cores={*rest} or {first}, manners=False, **job)
            answers = sum(report["answered"].values())
            return answers / report["seconds"], (usage(pid).cpu_seconds - began) / answers

    with ThreadPoolExecutor(2) as both:
        (rate, cpu), (fresh_rate, fresh_cpu) = both.map(load, (soaked, fresh))
    return Ratios(rate / fresh_rate, cpu / fresh_cpu)


@contextmanager
def pinned(pid: int, cores: set[int]) -> Iterator[None]:
    """Keep a process on these cores, and let it go afterwards."""
    before = os.sched_getaffinity(pid)
    _pin(pid, cores)
    try:
        yield
    finally:
        _pin(pid, before)


def _pin(pid: int, cores: set[int]) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:
            # It ended meanwhile.
            continue


def mean(values: Sequence[float]) -> Estimate:
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf)


def trend(values: Sequence[float]) -> Estimate:
    """The end by the beginning, on the straight line through values at equal distances; needs four of them.

    The error is that of independent values: it knows nothing of what drifts.
    """
    if len(values) < 4:
        return Estimate(math.nan, math.nan)
    (slope, begin), covariance = np.polyfit(np.linspace(0, 1, len(values)), values, 1, cov=True)
    return Estimate(1 + slope / begin, math.sqrt(covariance[0, 0]) / begin)
