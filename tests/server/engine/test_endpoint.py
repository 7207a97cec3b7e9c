"""Who takes the turns of a role, and where a call goes, by what runs take on this machine: measured on a clock that the
programs move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from ancestral_server.engine import endpoint as module
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.endpoint import EndpointSettings, OneShotEndpoint, one_shot_endpoint, raster_endpoint
from ancestral_server.engine.job import Priority
from ancestral_server.engine.policy import Immediate
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.runners import LoopRunner, LoopTuning, PoolRunner, ThreadRunner
from ancestral_server.errors import OutOfMemory
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.program import Meaning, OneShotProgram, RasterProgram
from fakeprograms import IMAGE, Array, Doubler, Painter, double, expected_images, paint, run
from simulation import images

TUNING = LoopTuning()
OPEN = Limits(images=10**6, calls=10**6, seconds=float("inf"))


class Clock:
    """The seconds that programs have taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Timed(Doubler):
    """A doubler that takes so long a row, on the clock."""

    def __init__(self, clock: Clock, row_seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._row_seconds = row_seconds

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        self._clock.now += self._row_seconds * len(inputs[IMAGE])
        return super().run(inputs, wanted)


def made(
    together: Doubler, alone: Doubler, max_batch: int = 8, threads: int = 2, fixed: bool = False
) -> OneShotEndpoint:
    settings = EndpointSettings(
        OPEN, max_batch=max_batch, slots=8, policy=Immediate, pool=WorkerPool(threads), fixed=fixed
    )
    metrics = Metrics("test").lanes.make("toy", 1, "encode")
    program, other = cast(OneShotProgram, together), cast(OneShotProgram, alone)
    return one_shot_endpoint("toy", program, lambda: other, metrics, settings)


def runners(endpoint: OneShotEndpoint) -> list[type]:
    return [type(lane._runner) for lane in endpoint.lanes]


def test_short_runs_are_the_event_loops_and_bulk_is_spread_over_the_workers(clock: Clock) -> None:
    together, alone = Timed(clock, 0.0002), Timed(clock, 0.4 * TUNING.call_seconds)
    endpoint = made(together, alone, threads=3)
    assert runners(endpoint) == [LoopRunner, PoolRunner]
    assert [lane.seats for lane in endpoint.lanes] == [1, 3]
    # Less than half a millisecond a row: a call of two is the event loop's, and eight make a run of a worker's.
    assert endpoint.most_interactive_rows == 2
    assert endpoint.rows_at_a_time == 3 * 8
    assert endpoint.lane(images(1, 2)) is endpoint.interactive
    assert endpoint.lane(images(1, 2, 3)) is endpoint.bulk
    assert endpoint.lane(images(1, priority=Priority.BATCH)) is endpoint.bulk


def test_long_runs_have_a_thread_of_their_own_and_one_program(clock: Clock) -> None:
    together, alone = Timed(clock, 2 * TUNING.call_seconds), Timed(clock, 0.0)
    endpoint = made(together, alone)
    assert runners(endpoint) == [ThreadRunner, PoolRunner]
    assert [lane.seats for lane in endpoint.lanes] == [1, 1]
    assert endpoint.lane(images(*range(1, 100))) is endpoint.interactive
    assert not alone.sizes


def test_what_takes_long_on_one_thread_is_run_on_all(clock: Clock) -> None:
    together, alone = Timed(clock, TUNING.call_seconds), Timed(clock, 2 * TUNING.run_seconds)
    endpoint = made(together, alone)
    assert runners(endpoint) == [ThreadRunner, PoolRunner]


def test_a_run_of_bulk_takes_no_longer_than_samplers_can_wait(clock: Clock) -> None:
    pool_seconds = WorkerPool(1).tuning.bulk_run_seconds
    endpoint = made(Timed(clock, pool_seconds / 4), Doubler())
    assert endpoint.rows_at_a_time == 4


def test_where_runs_have_one_size_bulk_has_one_seat(clock: Clock) -> None:
    together = Timed(clock, TUNING.call_seconds / 16)
    endpoint = made(together, together, fixed=True)
    assert runners(endpoint) == [LoopRunner, PoolRunner]
    assert [lane.seats for lane in endpoint.lanes] == [1, 1]
    assert endpoint.rows_at_a_time == 8
    # All rows of a call fit the one size, or go in several.
    assert endpoint.lane(images(*range(1, 9))) is endpoint.interactive


def test_every_size_is_run_at_load_and_short_runs_are_looked_at_more_often(clock: Clock) -> None:
    program = Timed(clock, module.LOOK_SECONDS / 5)
    made(program, Doubler())
    assert program.sizes == [1] * 5 + [2] * 3 + [4] * 2 + [8] * 2


def test_a_size_that_does_not_fit_at_load_bounds_the_batches(clock: Clock) -> None:
    doubler, alone = Timed(clock, 0.0), Timed(clock, 0.0)
    doubler.fits = alone.fits = 2
    endpoint = made(doubler, alone)
    # What 4 had taken goes back with one more run.
    assert doubler.sizes == [1] * module.MOST_LOOKS + [2] * (module.MOST_LOOKS + 1)
    assert max(alone.sizes) == 2
    assert endpoint.rows_at_a_time == 2 * 2
    assert endpoint.stats.metrics.out_of_memory._value.get() == 1
    doubler.fits = 0
    with pytest.raises(OutOfMemory):
        made(doubler, alone)


def test_a_sampler_has_a_seat_for_each_worker(painter: Painter) -> None:
    async def work() -> None:
        jobs = await asyncio.gather(*(paint(endpoint, n, seed=n) for n in (1, 9, 30)))
        for job in jobs:
            assert job.images.tobytes() == expected_images(job.seed, 0, job.rows).tobytes()

    settings = EndpointSettings(OPEN, max_batch=8, slots=4, policy=Immediate, pool=WorkerPool(3))
    metrics = Metrics("test").lanes.make("toy", 1, "sample")
    endpoint = raster_endpoint("toy", cast(RasterProgram, painter), metrics, settings)
    assert endpoint.lane.seats == 3
    endpoint.start()
    try:
        run(work())
    finally:
        endpoint.close()


def test_calls_of_both_kinds_are_counted_together(clock: Clock) -> None:
    endpoint = made(Timed(clock, 0.0), Timed(clock, 0.0))
    endpoint.start()

    async def work() -> None:
        assert await double(endpoint, 1) == [2.0]
        assert await double(endpoint, 2, priority=Priority.BATCH) == [4.0]
        assert await double(endpoint, *range(20, 60)) == [2.0 * value for value in range(20, 60)]
        assert endpoint.stats.requests == 3
        assert endpoint.healthy

    try:
        run(work())
    finally:
        endpoint.close()


def test_bulk_goes_on_while_calls_keep_coming(clock: Clock) -> None:
    """They have lanes of their own: neither class waits for the other's queue."""
    endpoint = made(Timed(clock, 0.0), Timed(clock, 0.0))
    endpoint.start()

    async def work() -> None:
        async def caller() -> int:
            calls = 0
            while not bulk.done():
                assert await double(endpoint, 7) == [14.0]
                calls += 1
                # As a call over the network does.
                await asyncio.sleep(0)
            return calls

        bulk = asyncio.create_task(double(endpoint, *range(20, 60), priority=Priority.BATCH))
        callers = [asyncio.create_task(caller()) for _ in range(4)]
        assert await bulk == [2.0 * value for value in range(20, 60)]
        await asyncio.gather(*callers)

    try:
        run(work())
    finally:
        endpoint.close()
