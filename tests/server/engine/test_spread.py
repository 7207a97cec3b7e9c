"""Bulk that several workers run at a time: who takes what, and that nothing is lost, mixed up or answered twice."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ancestral_server.engine import cores
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.cores import Cores
from ancestral_server.engine.job import Priority
from ancestral_server.engine.quick import QuickBatchLoop
from ancestral_server.engine.spread import SpreadBatchLoop
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, Overloaded, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.program import Meaning
from fakeprograms import IMAGE, Array, Doubler, double, run, until

BATCH = Priority.BATCH
# Of a run of one worker.
BULK = 4
MANY = [value for value in range(1, 50) if value != 13]


class Watched(Doubler):
    """A together that tells on which threads it ran; a run that holds 1 waits for `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []
        self.first = threading.Event()
        self.first.set()

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        self.threads.append(threading.current_thread().name)
        if (inputs[IMAGE] == 1).any():
            self.first.wait(10)
        return super().run(inputs, wanted)


@pytest.fixture
def together() -> Watched:
    return Watched()


@pytest.fixture
def alone() -> Watched:
    """The program of a worker that runs by itself."""
    return Watched()


@contextmanager
def spread_lane(
    together: Watched, alone: Watched, helpers: int = 1, kind: type[SpreadBatchLoop] = SpreadBatchLoop
) -> Iterator[SpreadBatchLoop]:
    metrics = Metrics("test").lane("toy", 1, "encode")
    settings: dict[str, Any] = {"max_batch": 4, "limits": Limits(images=10_000), "wait": 0.005, "helpers": helpers}
    # On a busy machine a first look may find the runs of one worker long.
    for _ in range(100):
        lane = kind("toy", together, metrics, **settings, arrivals=Arrivals(), cores=Cores(1))
        lane.warm_up()
        lane.lighten(alone)  # type: ignore[arg-type]
        if lane._light_rows == BULK or alone.run_seconds:
            break
    for program in (together, alone):
        program.runs.clear()
        program.sizes.clear()
        program.threads.clear()
    lane.start()
    try:
        yield lane
    finally:
        for program in (together, alone):
            program.gate.set()
            program.first.set()
        lane.close()
    assert not any(thread.is_alive() for thread in lane._threads)


@pytest.fixture
def lane(together: Watched, alone: Watched) -> Iterator[SpreadBatchLoop]:
    with spread_lane(together, alone) as lane:
        yield lane


def bulk(lane: SpreadBatchLoop, *values: int, **settings: Any) -> asyncio.Task[list[float]]:
    return asyncio.create_task(double(lane, *values, priority=BATCH, **settings))


def test_two_workers_run_bulk_at_a_time(lane: SpreadBatchLoop, together: Watched, alone: Watched) -> None:
    async def work() -> None:
        alone.gate.clear()
        tasks = [bulk(lane, *range(start, start + BULK)) for start in range(20, 60, BULK)]
        await until(lambda: all(hand.pieces for hand in lane._hands))
        alone.gate.set()
        answers = await asyncio.gather(*tasks)
        assert answers == [[2.0 * v for v in range(start, start + BULK)] for start in range(20, 60, BULK)]
        assert lane.stats.rows == len(tasks) * BULK

    run(work())


def test_a_job_that_several_workers_run_comes_in_order(lane: SpreadBatchLoop, alone: Watched) -> None:
    async def work() -> None:
        alone.first.clear()
        task = bulk(lane, *MANY)
        await until(lambda: sum(map(len, alone.runs)) == len(MANY) - BULK)
        assert not task.done()
        alone.first.set()
        assert await task == [2.0 * value for value in MANY]
        assert lane.stats.requests == 1

    run(work())


def test_little_bulk_is_run_by_all_threads(lane: SpreadBatchLoop, together: Watched, alone: Watched) -> None:
    async def work() -> None:
        for value in range(20, 40):
            assert await bulk(lane, *[value] * 4) == [2.0 * value] * 4
            await until(lambda: not lane._hands[0].pieces)
        assert not alone.runs
        assert len(together.runs) == 20

    run(work())


def test_single_calls_keep_the_helpers_off(lane: SpreadBatchLoop, together: Watched, alone: Watched) -> None:
    async def work() -> None:
        lane._cores._last_call = math.inf
        assert await bulk(lane, *MANY) == [2.0 * value for value in MANY]
        assert not alone.runs
        assert set(together.threads) == {"lane toy 0"}
        # And once they have ended, which nobody tells, they come again.
        together.gate.clear()
        task = bulk(lane, *MANY)
        await until(lambda: bool(lane._hands[0].pieces))
        lane._cores._last_call = -math.inf
        together.gate.set()
        assert await task == [2.0 * value for value in MANY]
        assert set(alone.threads) == {"lane toy 0", "lane toy 1"}

    run(work())


def test_a_waiting_single_call_goes_before_the_helpers(
    lane: SpreadBatchLoop, together: Watched, alone: Watched
) -> None:
    async def work() -> None:
        together.gate.clear()
        tasks = [bulk(lane, 20)]
        await until(lambda: bool(lane._hands[0].pieces))
        single = asyncio.create_task(double(lane, 7))
        await until(lambda: len(lane._queue) == 1)
        # So long ago that it is no sign of others any more.
        await asyncio.sleep(2 * cores.FREE_SECONDS)
        tasks.append(bulk(lane, *MANY))
        await asyncio.sleep(0.05)
        assert not lane._hands[1].pieces
        together.gate.set()
        assert await single == [14.0]
        await asyncio.gather(*tasks)
        assert together.runs[1][0] == 7

    run(work())


def test_a_helper_that_dies_fails_its_own_and_the_lane_goes_on(
    lane: SpreadBatchLoop, together: Watched, alone: Watched
) -> None:
    async def work() -> None:
        told: list[bool] = []
        lane.on_health = lambda lane: told.append(lane.healthy)
        together.gate.clear()
        held = bulk(lane, 20)
        await until(lambda: bool(lane._hands[0].pieces))
        alone.error = SystemExit("no")
        with pytest.raises(Internal, match="no"):
            await bulk(lane, *range(20, 20 + BULK))
        await until(lambda: restarts(lane) == 1)
        together.gate.set()
        assert await held == [40.0]
        assert await bulk(lane, *MANY) == [2.0 * value for value in MANY]
        assert not told

    run(work())


def restarts(lane: SpreadBatchLoop) -> float:
    return float(lane.metrics.restarts._value.get())


def test_a_dead_lane_is_down_whatever_its_helpers_are(lane: SpreadBatchLoop, together: Watched) -> None:
    async def work() -> None:
        together.fits = 0
        together.error = SystemExit("no")
        with pytest.raises(Internal):
            await double(lane, 5)
        await until(lambda: not lane.healthy)
        together.fits = 10**6
        await until(lambda: lane.healthy)
        assert await double(lane, 5) == [10.0]

    run(work())


def test_a_job_that_fails_for_two_workers_is_answered_and_counted_once(lane: SpreadBatchLoop, alone: Watched) -> None:
    async def work() -> None:
        alone.gate.clear()
        task = bulk(lane, *[13] * (2 * BULK))
        await until(lambda: all(hand.pieces for hand in lane._hands))
        alone.gate.set()
        with pytest.raises(Internal, match="thirteen"):
            await task
        await until(lambda: not any(hand.pieces for hand in lane._hands))
        assert lane.stats.failures == 1
        assert lane._queue.total_rows == 0

    run(work())


def test_bulk_that_does_not_fit_into_memory_is_run_in_parts(lane: SpreadBatchLoop, alone: Watched) -> None:
    async def work() -> None:
        alone.fits = 2
        assert await bulk(lane, *MANY) == [2.0 * value for value in MANY]
        assert alone.sizes
        assert lane.metrics.out_of_memory._value.get() > 0

    run(work())


def test_it_is_not_spread_where_one_worker_takes_too_long(together: Watched, alone: Watched) -> None:
    alone.run_seconds = 0.05
    with spread_lane(together, alone) as lane:
        assert len(lane._threads) == 1
        assert run(double_bulk(lane)) == [2.0 * value for value in MANY]
        assert not alone.runs


async def double_bulk(lane: SpreadBatchLoop) -> list[float]:
    return await bulk(lane, *MANY)


def test_a_lane_that_closes_answers_what_its_helpers_hold(together: Watched, alone: Watched) -> None:
    async def work() -> None:
        with spread_lane(together, alone, helpers=3) as lane:
            alone.gate.clear()
            tasks = [bulk(lane, *MANY) for _ in range(4)]
            await until(lambda: all(hand.pieces for hand in lane._hands))
            closing = asyncio.create_task(asyncio.to_thread(lane.close))
            await asyncio.sleep(0.05)
            alone.gate.set()
            await closing
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)

    run(work())


def test_helpers_answer_by_post_whoever_has_the_turns(together: Watched, alone: Watched) -> None:
    async def work() -> None:
        asyncio.get_running_loop().set_debug(True)
        with spread_lane(together, alone, kind=QuickBatchLoop) as lane:
            assert isinstance(lane, QuickBatchLoop)
            together.gate.clear()
            alone.first.clear()
            held = bulk(lane, 20)
            await until(lambda: bool(lane._hands[0].pieces))
            helped = bulk(lane, *range(1, BULK + 1))
            await until(lambda: bool(lane._hands[1].pieces))
            together.gate.set()
            await held
            # As while the event loop waits for company.
            lane._here = True
            alone.first.set()
            assert await helped == [2.0 * value for value in range(1, BULK + 1)]
            lane._here = False

    run(work())


@pytest.mark.parametrize("kind", [SpreadBatchLoop, QuickBatchLoop])
def test_everybody_is_answered_rightly_and_once(
    together: Watched, alone: Watched, kind: type[SpreadBatchLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all sizes and priorities, some of whom leave or expire."""
    monkeypatch.setattr(cores, "FREE_SECONDS", 0.001)
    random = np.random.default_rng(0)

    async def caller(lane: SpreadBatchLoop, count: list[int]) -> None:
        for _ in range(60):
            values = [int(v) for v in random.integers(14, 250, random.integers(1, 30))]
            priority = BATCH if random.random() < 0.7 else Priority.INTERACTIVE
            deadline = float(random.choice([0.0005, 0.002, 10]))
            task = asyncio.create_task(double(lane, *values, priority=priority, deadline=deadline))
            if random.random() < 0.2:
                await asyncio.sleep(0.001 * random.random())
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled() or isinstance(task.exception(), DeadlineExceeded | Infeasible | Overloaded):
                continue
            assert task.result() == [2.0 * value for value in values]
            count[0] += 1
            if random.random() < 0.3:
                await asyncio.sleep(0.03 * random.random())

    async def work() -> None:
        count = [0]
        # So it refuses what other threads have no business doing.
        asyncio.get_running_loop().set_debug(True)
        with spread_lane(together, alone, helpers=3, kind=kind) as lane:
            together.run_seconds = alone.run_seconds = 0.0002
            await asyncio.gather(*(caller(lane, count) for _ in range(12)))
            await until(lambda: not lane._queue and not any(hand.pieces for hand in lane._hands))
            assert lane.healthy
            assert restarts(lane) == 0
            sizes = lane.stats.sizes()
            assert lane.metrics.batch_size.total == sum(rows * runs.count for rows, runs in sizes)
            assert sum(lane.metrics.batch_size.counts) == sum(runs.count for _, runs in sizes)
        assert lane.stats.requests >= count[0] > 100
        assert len({thread for thread in alone.threads if thread.startswith("lane")}) > 1

    run(work())
