"""The drivers in short, and that each would see what it is there to see; `make soak` and its like run them in full."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import beside
import mixed
import run_million
import run_overload
import run_restarts
import run_soak
import toybundle
import traffic
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import timing_pb2
from instant import Instant
from running import ServerProcess
from watching import Usage
from wire import tensor


def test_a_short_soak(tmp_path: Path) -> None:
    lines: list[str] = []
    # What a server keeps shows in minutes, and how fast it answers depends on the machine: neither is judged here.
    report = run_soak.soak(
        tmp_path / "models",
        minutes=1,
        minute=1,
        interval=0.5,
        beside_seconds=0.6,
        workers=12,
        rate=100,
        say=lines.append,
    )
    assert report["failures"] == []
    assert report["issued"] == sum(report["outcomes"].values())
    assert report["outcomes"]["OK"] > 0
    assert report["reloads"] >= 1
    assert len(report["rate_beside"]) == len(report["rates"]) == 1
    assert all(ratio > 0 for ratio in report["rate_beside"] + report["cpu_beside"])
    assert "beside a fresh server" in run_soak.summary(report)


def test_a_short_overload(tmp_path: Path) -> None:
    """Every call ends in a way that is expected. How many are served, and how fast, `make overload` says."""
    traffic.write_version(tmp_path, 1, layers=run_overload.LAYERS // 8)
    report = run_overload.overload(tmp_path, seconds=1, usual_seconds=1, rounds=1)
    assert report["unexpected"] == []
    assert len(report["peaks"]) == 2
    (each,) = report["rounds"]
    assert each["accepted"] + each["refused"] + each["expired"] == pytest.approx(each["offered_rate"])


def test_a_server_that_is_stopped_answers_what_it_began(tmp_path: Path) -> None:
    report = run_restarts.stops(tmp_path, 1)
    assert report["failures"] == []
    assert report["calls"]["OK"] > 0
    assert sum(report["calls"].values()) > report["calls"]["OK"], "the load ended before the server did"


def test_a_few_reloads_under_load(tmp_path: Path) -> None:
    assert run_restarts.reloads(tmp_path / "models", 1, looks=1)["failures"] == []


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


def test_the_same_seed_asks_for_the_same() -> None:
    def asked(seed: int) -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []

        class Recorder(mixed.Mixed):
            async def _one(self, channel: object, random: traffic.Random, manner: str) -> None:
                seen.append((int(random.integers(2**40)), manner))
                # What an attempt takes of its chance is none of the next call's.
                random.random(np.random.default_rng().integers(5))
                if len(seen) == 15:
                    self.stop()

        asyncio.run(Recorder(seconds=60, workers=1, limit=1, seed=seed).run("127.0.0.1:1"))
        return seen

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)
    assert len(set(asked(1))) == 15


def test_calls_come_at_their_rate_and_catch_up_where_one_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []
    loop = Instant()
    monkeypatch.setattr(mixed, "time", SimpleNamespace(monotonic=loop.time))

    class Slow(mixed.Mixed):
        async def _one(self, *_: object) -> None:
            begun.append(loop.time())
            await asyncio.sleep(0.3 if len(begun) == 5 else 0.0)

        async def all(self) -> None:
            channel: Any = None
            await asyncio.gather(*(self._work(channel, number) for number in range(4)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(Slow(seconds=0.955, workers=4, limit=1, seed=1, rate=100).all())
    # A hundred in a second, one after the other; the fifth takes 0.3 s, in which its worker misses seven of its own.
    due = [number / 100 for number in range(100)]
    late = [at for at in due if round(at * 100) % 4 == 0 and 0.04 < at < 0.34]
    assert len(late) == 7
    assert begun == pytest.approx(sorted(0.34 if at in late else at for at in due), abs=1e-6)


def test_a_trend_is_the_end_by_the_beginning() -> None:
    value, error = beside.trend([10 - i / 10 for i in range(51)])
    assert value == pytest.approx(0.5)
    assert error == pytest.approx(0, abs=1e-6)
    _, error = beside.trend([1.0, 1.1, 0.9, 1.0, 1.1, 0.9])
    assert 0.05 < error < 0.5
    assert np.isnan(beside.trend([1.0, 1.0]).value)


def test_servers_stay_on_their_cores_only_while_they_are_compared() -> None:
    cores = os.sched_getaffinity(0)
    with subprocess.Popen(["sleep", "60"]) as process:
        with beside.pinned(process.pid, {min(cores)}):
            assert os.sched_getaffinity(process.pid) == {min(cores)}
        assert os.sched_getaffinity(process.pid) == cores
        process.kill()


def test_recovery_is_when_calls_are_served_as_usual_again() -> None:
    late = [(0.1 * i, 0.5 if i < 10 else 0.01, "OK") for i in range(50)]
    assert run_overload.recovery(late, usual_p99=0.05) == pytest.approx(1.0)
    assert run_overload.recovery(late[10:], usual_p99=0.05) == 0
    # A slow moment much later is none of the overload's.
    assert run_overload.recovery([*late, (9.1, 0.5, "OK")], usual_p99=0.05) == pytest.approx(1.0)
    assert run_overload.recovery([(0.1, 0.001, "RESOURCE_EXHAUSTED refused")], usual_p99=0.05) > 0


def test_a_few_images_of_the_million(toy_server: ServerProcess) -> None:
    report = run_million.million(toy_server, "tally", 500, 2)
    assert report["failures"] == []
    assert report["raw_images_per_second"] > 0
    assert report["share"] > 0
    assert len(report["client_mib"]) == 2


def test_memory_that_is_no_answer_and_images_that_are_missing_are_seen() -> None:
    flat = {"answered": 100, "during_mib": [50.0, 90.0, 90.0, 91.0]}
    leak = {"answered": 100, "during_mib": [90.0 + 10 * look for look in range(20)]}
    assert run_million.failures([flat, flat], [200.0, 240.0, 241.0], 100) == []
    assert "the client's memory" in run_million.failures([flat, leak], [200.0, 240.0], 100)[0]
    assert "the server's memory" in run_million.failures([flat], [200.0, 240.0, 300.0], 100)[0]
    assert run_million.failures([flat], [200.0], 101) == ["100 of 101 images"]
