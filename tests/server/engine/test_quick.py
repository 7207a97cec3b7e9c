"""Short runs, which the event loop takes itself: on which thread, and that nothing is lost when it changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from ancestral_server.engine import costs
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.cores import Cores
from ancestral_server.engine.job import Priority
from ancestral_server.engine.quick import QuickBatchLoop
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.program import Meaning
from fakeprograms import Array, Doubler, double, run, until


class Watched(Doubler):
    """A doubler that tells on which thread it ran, and when it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.begun = threading.Event()

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        self.threads.append(threading.get_ident())
        self.begun.set()
        return super().run(inputs, wanted)


@pytest.fixture
def program() -> Watched:
    return Watched()


@contextmanager
def quick_lane(program: Watched, **more: Any) -> Iterator[QuickBatchLoop]:
    settings: dict[str, Any] = {"max_batch": 4, "limits": Limits(), "wait": 0.005, **more}
    metrics = Metrics("test").lane("toy", 1, "encode")
    lane = QuickBatchLoop("toy", program, metrics, **settings, arrivals=Arrivals(), cores=Cores(1))
    # On a busy machine a first look may find the runs long.
    for _ in range(100):
        lane.warm_up()
        if lane.quick:
            break
    assert lane.quick
    program.sizes.clear()
    lane.lighten(program)  # type: ignore[arg-type]
    lane.start()
    program.threads.clear()
    program.runs.clear()
    program.begun.clear()
    yield lane
    program.gate.set()
    lane.close()


@pytest.fixture
def lane(program: Watched) -> Iterator[QuickBatchLoop]:
    with quick_lane(program) as lane:
        yield lane


def test_short_runs_stay_on_the_event_loops_thread(lane: QuickBatchLoop, program: Watched) -> None:
    async def work() -> None:
        for value in range(1, 20):
            assert await double(lane, value if value != 13 else 0) == [2.0 * (value if value != 13 else 0)]
        assert await asyncio.gather(*(double(lane, value) for value in range(20, 60))) == [
            [2.0 * value] for value in range(20, 60)
        ]
        assert set(program.threads) == {threading.get_ident()}

    run(work())


def test_a_lone_call_takes_no_turn_and_is_counted_like_the_others(
    lane: QuickBatchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        lane._crowd._until_probe = 100
        with monkeypatch.context() as patch:
            patch.setattr(lane, "submit", lambda job: pytest.fail("it took its turn"))
            assert await double(lane, 1, 2, 3) == [2.0, 4.0, 6.0]
        await asyncio.sleep(0)
        assert (lane.stats.requests, lane.stats.rows, lane.stats.runs[3].count) == (1, 3, 1)
        assert sum(lane.metrics.batch_size.counts) == sum(lane.metrics.compute_seconds.counts) == 1
        # Not in time for its run, or more than a run holds: the turn knows what to do.
        with pytest.raises(Infeasible):
            await double(lane, 1, deadline=0.0)
        assert await double(lane, *range(1, 10)) == [2.0 * value for value in range(1, 10)]

    run(work())


def test_where_runs_have_one_size_those_here_have_it_too(program: Watched) -> None:
    async def work(lane: QuickBatchLoop) -> None:
        for values in ((1,), (2, 3), (4, 5, 6, 7, 8)):
            assert await double(lane, *values) == [2.0 * value for value in values]
        assert threading.get_ident() in program.threads
        # Since it was looked at, how fast they are.
        assert set(program.sizes) == {4}

    with quick_lane(program, fixed=True) as lane:
        run(work(lane))


def test_a_lane_whose_runs_have_become_long_goes_to_its_thread(lane: QuickBatchLoop, program: Watched) -> None:
    async def work() -> None:
        here = threading.get_ident()
        program.run_seconds = 0.02
        for _ in range(8):
            assert await double(lane, 1) == [2.0]
        assert program.threads[0] == here
        assert program.threads[-1] != here
        assert await asyncio.gather(*(double(lane, value) for value in range(1, 9))) == [
            [2.0 * value] for value in range(1, 9)
        ]

    run(work())


@pytest.mark.parametrize(
    ("calls", "milliseconds", "short"), [(1, 1.9, True), (1, 2.1, False), (64, 3.1, True), (64, 3.3, False)]
)
def test_for_a_crowd_a_run_may_be_longer(program: Watched, calls: int, milliseconds: float, short: bool) -> None:
    with quick_lane(program, max_batch=64) as lane:
        lane._here_costs._seconds = dict.fromkeys(lane._buckets, milliseconds / 1000)
        lane._crowd.known = calls
        assert lane._short() is short
        # Nobody holds up the event loop for longer, however many there are.
        lane._buckets = (1024,)
        lane._here_costs._seconds = {1024: 0.0051}
        lane._crowd.known = 1024
        assert not lane._short()


def test_a_crowd_that_never_leaves_gets_the_event_loop_back_when_runs_are_short_again(
    lane: QuickBatchLoop, program: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is never empty, so the thread never sleeps; and a run here measures itself only here."""

    async def work() -> None:
        here, stopping = threading.get_ident(), False

        async def caller(value: int) -> None:
            while not stopping:
                assert await double(lane, value) == [2.0 * value]

        for size in lane._buckets:
            lane._here_costs._seconds[size] = 0.5
        callers = [asyncio.create_task(caller(value)) for value in (1, 2, 3, 4, 5, 6, 7, 8)]
        await until(lambda: len(program.threads) >= 20)
        assert here not in program.threads
        # Long ago.
        monkeypatch.setattr(costs, "FRESH_SECONDS", 0.0)
        await until(lambda: here in program.threads)
        program.threads.clear()
        await until(lambda: len(program.threads) >= 50)
        assert program.threads.count(here) > 25
        stopping = True
        await asyncio.gather(*callers)

    run(work())


def test_bulk_is_no_reason_to_think_that_runs_here_are_short(lane: QuickBatchLoop, program: Watched) -> None:
    async def work() -> None:
        for size in lane._buckets:
            lane._here_costs._seconds[size] = 0.5
            lane._here_costs._measured[size] = 0.0
        for _ in range(20):
            assert await double(lane, 1, 2, priority=Priority.BATCH) == [2.0, 4.0]
        assert lane._here_costs.seconds(2) == 0.5
        assert threading.get_ident() not in program.threads

    run(work())


def test_a_failed_run_answers_its_callers_and_the_next_is_fine(lane: QuickBatchLoop) -> None:
    async def work() -> None:
        with pytest.raises(Internal, match="thirteen"):
            await double(lane, 13)
        assert await double(lane, 4) == [8.0]

    run(work())


def test_a_failure_of_the_loop_itself_is_recovered_by_the_thread(
    lane: QuickBatchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        told: list[bool] = []
        lane.on_health = lambda lane: told.append(lane.healthy)
        # A crowd that was there a moment ago: nobody runs alone.
        lane._crowd.seen(2)
        with monkeypatch.context() as patch:
            patch.setattr(lane, "_finish", lambda jobs: 1 / 0)
            with pytest.raises(Internal, match="toy failed"):
                await double(lane, 1)
        await until(lambda: told == [False, True])
        assert await double(lane, 2) == [4.0]

    run(work())


def test_what_has_expired_by_its_turn_is_not_run(
    lane: QuickBatchLoop, program: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        # Admitted as if it had been in time.
        monkeypatch.setattr(lane, "_check", lambda job: None)
        with pytest.raises(DeadlineExceeded):
            await double(lane, 7, deadline=0.0)
        assert [7] not in program.runs

    run(work())


def test_bulk_that_comes_while_a_call_waits_for_company_takes_both_to_the_thread(
    lane: QuickBatchLoop, program: Watched
) -> None:
    async def work() -> None:
        lane._longest_wait = 30.0
        lane._crowd.seen(4)
        calls = [double(lane, 1), double(lane, 2), double(lane, 3), double(lane, 4, priority=Priority.BATCH)]
        assert await asyncio.gather(*calls) == [[2.0], [4.0], [6.0], [8.0]]
        assert threading.get_ident() not in program.threads

    run(work())


def test_closing_in_the_middle_of_a_turn_runs_nothing_twice(lane: QuickBatchLoop, program: Watched) -> None:
    def close() -> None:
        assert program.begun.wait(10)
        lane.close()

    async def work() -> None:
        program.run_seconds = 0.1
        closing = asyncio.create_task(asyncio.to_thread(close))
        await asyncio.sleep(0.01)
        assert await double(lane, 5) == [10.0]
        await closing
        assert program.runs == [[5]]
        with pytest.raises(Unavailable):
            await double(lane, 6)

    run(work())


def test_whoever_waits_for_company_when_the_lane_closes_is_answered(lane: QuickBatchLoop) -> None:
    async def work() -> None:
        lane._longest_wait = 30.0
        lane._crowd.seen(4)
        waiting = asyncio.create_task(double(lane, 1))
        await until(lambda: len(lane._queue) == 1)
        await asyncio.to_thread(lane.close)
        assert await waiting == [2.0]

    run(work())
