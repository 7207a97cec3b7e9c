"""The drivers in short, and that each would see what it is there to see; `make soak` and its like run them in full."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixed
import run_overload
import run_restarts
import run_soak
import toybundle
import traffic
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import timing_pb2
from watching import Usage
from wire import tensor


def test_a_short_soak(tmp_path: Path) -> None:
    lines: list[str] = []
    report = run_soak.soak(tmp_path / "models", seconds=6, interval=1.5, workers=12, pairs=1, say=lines.append)
    assert report["failures"] == []
    assert report["issued"] == sum(report["outcomes"].values())
    for outcome in ("OK", "CANCELLED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"):
        assert report["outcomes"][outcome] > 0, outcome
    for kind in ("SampleStream", "EncodeStream", "ModelInfer"):
        assert kind in lines[-1]
    assert report["throughput_against_fresh"]["value"] > 0
    assert report["throughput_trend"]["value"] > 0


def test_a_short_overload(tmp_path: Path) -> None:
    traffic.write_version(tmp_path, 1, layers=run_overload.LAYERS)
    report = run_overload.overload(tmp_path, seconds=2, usual_seconds=1)
    assert report["unexpected"] == []
    assert report["offered_rate"] > 2 * report["peak_rate"]
    assert report["accepted"] + report["refused"] + report["expired"] == pytest.approx(report["offered_rate"] * 2)


def test_a_server_that_is_stopped_answers_what_it_began(tmp_path: Path) -> None:
    report = run_restarts.stops(tmp_path, 1)
    assert report["failures"] == []
    assert report["calls"]["OK"] > 0
    assert sum(report["calls"].values()) > report["calls"]["OK"], "the load ended before the server did"


def test_a_few_reloads_under_load(tmp_path: Path) -> None:
    assert run_restarts.reloads(tmp_path / "models", 3)["failures"] == []


def test_wrong_answers_are_seen() -> None:
    random = np.random.default_rng(0)

    def info(version: int) -> timing_pb2.ReplyInfo:
        return timing_pb2.ReplyInfo(version=version)

    ask = traffic.encode(random, 2)
    (request,) = ask.requests
    assert isinstance(request, pb.EncodeRequest)
    images = np.frombuffer(request.images.data, np.uint8).reshape(2, *traffic.SHAPE)
    mean = tensor(toybundle.encode(images, traffic.offset(2)))
    assert ask.problem([pb.EncodeResponse(info=info(2), mean=mean)]) == ""
    assert "differs by 100" in ask.problem([pb.EncodeResponse(info=info(1), mean=mean)])

    ask = traffic.sample_stream(random)
    (stream,) = ask.requests
    assert isinstance(stream, pb.SampleStreamRequest)
    stream.progress = False
    assert "was due once" in ask.problem([])


@pytest.mark.parametrize(
    ("change", "problem"), [({"threads": 30}, "threads grew"), ({"files": 40}, "files grew"), ({"rss_mib": 130}, "rss")]
)
def test_growth_is_seen(change: dict[str, Any], problem: str) -> None:
    before = Usage(rss_mib=100, threads=16, files=14, cpu_seconds=0)
    assert run_soak.grown(before, before) == []
    (found,) = run_soak.grown(before, Usage(**{**vars(before), **change}))
    assert problem in found


def test_each_round_asks_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    class Recorder(mixed.Mixed):
        async def _one(self, channel: object, random: traffic.Random, manner: str) -> None:
            asked.append((int(random.integers(2**40)), manner))
            if len(asked) == 15:
                self.stop()
            await asyncio.sleep(0.1)

    monkeypatch.setattr(mixed, "ROUND_SECONDS", 0.5)
    asyncio.run(Recorder(seconds=60, workers=1, limit=1, seed=1).run("127.0.0.1:1"))
    assert asked[0] in asked[1:]
    assert 1 < len(set(asked)) < len(asked)


def test_throughput_is_that_of_the_last_minute_by_the_first() -> None:
    rates = [10] * 6 + [7] * 6 + [5] * 6
    counts = np.cumsum([0, *rates]) * 10
    rows = [{"seconds": 10.0 * i, "answered": {"Encode": int(count)}} for i, count in enumerate(counts)]
    # The last report is of the end, when callers stop one by one, and does not count.
    assert run_soak.throughput_ratio([*rows, {"seconds": 181.0, "answered": rows[-1]["answered"]}]) == 0.5


def test_the_trend_is_of_all_reports_but_the_last() -> None:
    rates = [10 - i / 10 for i in range(51)]
    counts = np.cumsum([0, *rates]) * 10
    rows = [{"seconds": 10.0 * i, "answered": {"Encode": count}} for i, count in enumerate(counts)]
    value, error = run_soak.trend([*rows, {"seconds": 521.0, "answered": rows[-1]["answered"]}])
    assert value == pytest.approx(0.5)
    assert error == pytest.approx(0, abs=1e-6)
    assert np.isnan(run_soak.trend(rows[:2]).value)


def test_recovery_is_when_calls_are_served_as_usual_again() -> None:
    late = [(0.1 * i, 0.5 if i < 10 else 0.01, "OK") for i in range(50)]
    assert run_overload.recovery(late, usual_p99=0.05) == pytest.approx(1.0)
    assert run_overload.recovery(late[10:], usual_p99=0.05) == 0
    # A slow moment much later is none of the overload's.
    assert run_overload.recovery([*late, (9.1, 0.5, "OK")], usual_p99=0.05) == pytest.approx(1.0)
    assert run_overload.recovery([(0.1, 0.001, "RESOURCE_EXHAUSTED refused")], usual_p99=0.05) > 0
