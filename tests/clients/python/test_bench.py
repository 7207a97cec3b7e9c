"""`ancestral bench`: load on the real server, and how latencies are counted."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ancestral_client import _load
from ancestral_client.errors import Overloaded
from instant import Instant

Run = Callable[..., Any]  # the fixture of conftest.py


def under(load: Callable[[_load.Load], Any], ask: _load.Ask, seconds: float, patience: float) -> list[_load.Call]:
    """The calls of a load on a clock that jumps to whatever is due next."""
    with asyncio.Runner(loop_factory=Instant) as runner:
        calls: list[_load.Call] = runner.run(load(_load.Load(ask, seconds, patience)))
        return calls


def test_callers_of_a_closed_loop_wait_for_their_answers() -> None:
    running = most = 0

    async def ask() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.5)
        running -= 1

    calls = under(lambda load: load.closed(3), ask, 10, 1)
    assert most == 3
    assert len(calls) == 3 * 20
    assert {call.outcome for call in calls} == {"ok"}
    report = _load.report(calls, 10, 2)
    assert report.calls == 3 * 16
    assert report.calls_per_second == pytest.approx(6)
    assert report.latency_ms["p50"] == pytest.approx(500)


def test_an_open_loop_counts_from_when_a_call_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stalls makes all wait that come meanwhile; a caller that waits for it would see one of them."""
    monkeypatch.setattr(_load, "_MOST_IN_FLIGHT", 1)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(2.0 if asked == 100 else 0.001)

    calls = under(lambda load: load.open(100, np.random.default_rng(1)), ask, 10, 60)
    assert len(calls) == pytest.approx(1000, rel=0.1)
    stalled = [call for call in calls if call.latency > 0.5]
    assert len(stalled) == pytest.approx(150, rel=0.2), "those of one and a half of the two seconds"
    assert sum(call.ended - call.begun > 0.5 for call in calls) == 1
    assert _load.report(calls, 10, 0).late_ms > 1000
    # Times are random, and the same for the same seed.
    gaps = np.diff([call.due for call in sorted(calls)])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.2)
    assert [call.due for call in calls] == [
        call.due for call in under(lambda load: load.open(100, np.random.default_rng(1)), ask, 10, 60)
    ]


@pytest.mark.parametrize("load", [lambda load: load.closed(4), lambda load: load.open(2, np.random.default_rng(0))])
def test_it_ends_though_nobody_answers(load: Callable[[_load.Load], Any]) -> None:
    async def ask() -> None:
        await asyncio.sleep(1e6)

    calls = under(load, ask, 5, 3)
    assert {call.outcome for call in calls} == {"unfinished"}
    assert max(call.ended for call in calls) == pytest.approx(8)
    report = _load.report(calls, 5, 0)
    assert (report.answered, report.latency_ms) == (0, {})


def test_calls_that_wait_for_room_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "_MOST_IN_FLIGHT", 1)

    async def ask() -> None:
        await asyncio.sleep(1e6)

    calls = under(lambda load: load.open(10, np.random.default_rng(0)), ask, 5, 3)
    assert len(calls) > 30
    assert {call.outcome for call in calls} == {"unfinished"}


def test_failures_are_told_apart_and_faults_of_ours_are_raised() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        if asked % 2:
            raise Overloaded("busy")

    report = _load.report(under(lambda load: load.closed(1), ask, 2, 1), 2, 0)
    assert report.outcomes == {"Overloaded": 10, "ok": 10}
    assert report.calls_per_second == pytest.approx(5, rel=0.2)

    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        under(lambda load: load.closed(1), broken, 2, 1)


@pytest.mark.parametrize("loop", [["--concurrency", "3"], ["--rate", "30"]], ids=["closed", "open"])
@pytest.mark.parametrize("call", ["encode", "sample"])
def test_the_real_server_under_load(run: Run, tmp_path: Path, loop: list[str], call: str) -> None:
    times = ("--seconds", "0.5", "--warm-up", "0.1")
    files = ("--csv", "calls.csv", "--plot", "p.png") if call == "encode" else ()
    done = run("bench", "tally", "--call", call, "-n", "2", *loop, *times, *files, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["call"], told["images"]) == ("tally", call, 2)
    assert told["loop"] == ("closed" if "--concurrency" in loop else "open")
    assert told["calls"] == sum(told["outcomes"].values()) > 0
    assert told["answered"] == told["outcomes"]["ok"]
    shares = [told["latency_ms"][f"p{share:g}"] for share in _load.PERCENTILES]
    assert 0 < shares[0] <= shares[-1] <= told["latency_ms"]["max"]
    if files:
        rows = list(csv.DictReader((tmp_path / "calls.csv").read_text().splitlines()))
        assert sum(float(row["due_s"]) >= 0.1 for row in rows) == told["calls"]
        row = rows[-1]
        latency = (float(row["ended_s"]) - float(row["due_s"])) * 1000
        assert float(row["latency_ms"]) == pytest.approx(latency, abs=0.01)
        with Image.open(tmp_path / "p.png") as picture:
            assert picture.width > 500


def test_what_it_says_to_people(run: Run) -> None:
    said = run("bench", "tally", "--seconds", "0.3", "--warm-up", "0").stdout.splitlines()
    assert said[0] == "tally version 1, encode of 1 image, 8 callers"
    assert " ok" in said[1]
    assert "images/s" in said[2]
    assert said[3].startswith("latency ms: p50 ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("tally", "--seconds", "0"), 2, "--seconds: is 0; must be 0.1 to 3600"),
        (("tally", "--seconds", "nan"), 2, "--seconds: is nan"),
        (("tally", "--rate", "0"), 2, "--rate: is 0; must be 0.01 to 100000"),
        (("tally", "--concurrency", "0"), 2, "--concurrency: is 0; must be 1 to 10000"),
        (("tally", "--warm-up", "99"), 2, "--warm-up: is 99; must be 0 to 9"),
        (("tally", "-n", "0"), 2, "images: is 0; must be at least 1"),
        (("tally", "--call", "decode"), 4, "model tally has no role 'decode'; it has encode, score, sample"),
        (("talli",), 3, "tally"),
        (("tally", "--plot", "p.gif"), 2, "p.gif: the name must end in .png, .svg or .pdf"),
        (("tally", "--csv", "none/c.csv"), 2, "there is no folder none"),
        (
            ("tally", "--call", "sample", "-n", "99999", "--seconds", "0.3", "--warm-up", "0"),
            2,
            "count: is 99999, must be 1",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_arguments_are_one_line(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run("bench", *arguments)
    assert done.returncode == code, done
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ancestral: ")


def test_a_plot_without_matplotlib_is_told_before_the_load(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("bench", "tally", "--plot", "p.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ancestral: p.png: needs matplotlib, which is not installed: pip install matplotlib\n"
