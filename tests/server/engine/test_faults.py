"""A lane that fails, and runs that do not fit into memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.cores import Cores
from ancestral_server.engine.job import RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.quick import QuickBatchLoop
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import Internal, OutOfMemory, Overdue, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.noise import uniforms_of_range
from fakeprograms import Doubler, Painter, batch_lane, double, expected_images, paint, painting_lane, run, until


def watched(lane: Lane[Any]) -> list[bool]:
    """The lane's health as it is told."""
    told: list[bool] = []
    lane.on_health = lambda lane: told.append(lane.healthy)
    return told


def count(counter: Any) -> float:
    return float(counter._value.get())


@pytest.mark.parametrize("error", [SystemExit("no"), KeyboardInterrupt(), GeneratorExit("odd")])
def test_a_dead_lane_answers_turns_health_and_begins_anew(
    batches: BatchLoop, doubler: Doubler, error: BaseException
) -> None:
    async def work() -> None:
        told = watched(batches)
        doubler.gate.clear()
        running = asyncio.create_task(double(batches, 1))
        await until(lambda: not batches._queue and bool(batches._hands[0].pieces))
        waiting = asyncio.create_task(double(batches, 2))
        await until(lambda: len(batches._queue) == 1)
        doubler.error = error
        doubler.gate.set()
        with pytest.raises(Internal, match="toy failed"):
            await running
        # Had not begun: worth asking again.
        with pytest.raises(Unavailable, match="is being restarted"):
            await waiting
        with pytest.raises(Unavailable, match="is being restarted"):
            await double(batches, 3)
        await until(lambda: batches.healthy)
        assert told == [False, True]
        assert await double(batches, 4) == [8.0]
        assert count(batches.metrics.restarts) == 1

    run(work())


def test_a_failure_of_the_loop_itself_loses_nobody(batches: BatchLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        told = watched(batches)
        monkeypatch.setattr(batches, "_finish", lambda jobs: 1 / 0)
        with pytest.raises(Internal, match="division by zero"):
            await double(batches, 1, 2, 3, 4, 5)
        monkeypatch.undo()
        await until(lambda: told == [False, True])
        assert await double(batches, 4) == [8.0]
        assert batches._queue.total_rows == 0

    run(work())


def test_a_failure_to_answer_loses_nobody(batches: BatchLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    post, failures = batches._post, [ZeroDivisionError("once")]

    def fail_once(jobs: Any, message: Any) -> None:
        if failures:
            raise failures.pop()
        post(jobs, message)

    async def work() -> None:
        told = watched(batches)
        monkeypatch.setattr(batches, "_post", fail_once)
        with pytest.raises(Internal, match="once"):
            await double(batches, 1, 2, 3)
        # Its callers hear before it is down.
        await until(lambda: told == [False, True])
        assert await double(batches, 4) == [8.0]

    run(work())


def test_a_lane_stays_down_until_a_run_succeeds(batches: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        told = watched(batches)
        doubler.fits = 0
        doubler.error = SystemExit("no")
        with pytest.raises(Internal):
            await double(batches, 1)
        # The first try comes after a tenth of a second, the next after a fifth.
        await until(lambda: batches._failures.of(0) >= 2)
        assert told == [False]
        with pytest.raises(Unavailable):
            await double(batches, 1)
        doubler.fits = 10
        await until(lambda: batches.healthy)
        assert await double(batches, 4) == [8.0]

    run(work())


def test_a_lane_that_is_down_closes_at_once(doubler: Doubler) -> None:
    async def work() -> None:
        with batch_lane(doubler) as lane:
            lane._failures._in_succession[0], lane._failures._last[0] = 20, float("inf")
            doubler.error = SystemExit("no")
            with pytest.raises(Internal):
                await double(lane, 1)
            await asyncio.wait_for(asyncio.to_thread(lane.close), 5)

    run(work())


def test_one_dead_worker_of_two_fails_its_own_and_the_model_stays_healthy(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, workers=2) as lane:
            told = watched(lane)
            painter.gate.clear()
            tasks = [asyncio.create_task(paint(lane, 1, seed=seed)) for seed in range(12)]
            await until(lambda: all(slots.used for slots in lane._slots))
            painter.error = SystemExit("no")
            painter.gate.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert 0 < len(failed) <= 4
            assert all(isinstance(error, Internal) for error in failed)
            assert not told
            assert count(lane.metrics.restarts) == 1
            assert (await paint(lane, 9)).images.tobytes() == expected_images(1, 0, 9).tobytes()

    run(work())


@pytest.fixture
def eights(doubler: Doubler) -> Iterator[BatchLoop]:
    with batch_lane(doubler, Limits(images=1000), max_batch=8) as lane:
        yield lane


def test_a_batch_that_does_not_fit_is_run_in_halves_and_nobody_hears(eights: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.fits = 2
        doubler.gate.clear()
        tasks = [asyncio.create_task(double(eights, 1))]
        await until(lambda: bool(eights._hands[0].pieces))
        # A batch of five calls, and a split call of 20.
        values = [[2, 3, 4], [5], [6], [7], [8], list(range(20, 40))]
        tasks += [asyncio.create_task(double(eights, *each)) for each in values]
        await until(lambda: len(eights._queue) == 6)
        doubler.gate.set()
        answers = await asyncio.gather(*tasks)
        assert answers[1:] == [[2.0 * value for value in each] for each in values]
        assert max(doubler.sizes) == 2
        # 8 and 4 did not fit; from then on nothing larger than 2 is tried.
        assert count(eights.metrics.out_of_memory) == 2
        assert await double(eights, 1, 2, 3) == [2.0, 4.0, 6.0]
        assert count(eights.metrics.out_of_memory) == 2

    run(work())


def test_the_batch_grows_back(eights: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.fits = 4
        await double(eights, *range(1, 9))
        assert eights._room.most == 4
        doubler.fits = 8
        eights._room._grow_at = 0.0
        await double(eights, *range(1, 9))
        assert doubler.sizes == [4, 4, 8]

    run(work())


def test_a_row_that_does_not_fit_fails_alone(eights: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.fits = 0
        with pytest.raises(OutOfMemory, match="not even 1 image fits into memory: out of memory: the fake is full"):
            await double(eights, 1, 2, 3)
        doubler.fits = 8
        assert await double(eights, 1, 2) == [2.0, 4.0]
        assert eights._queue.total_rows == 0
        assert eights.healthy

    run(work())


def test_a_bucket_that_does_not_fit_at_the_start_bounds_the_batches(doubler: Doubler) -> None:
    async def work() -> None:
        doubler.fits = 2
        with batch_lane(doubler, max_batch=8) as lane:
            lane.warm_up()
            # What 4 had taken goes back with one more run.
            assert doubler.sizes == [1, 1, 2, 2, 2]
            await double(lane, *range(1, 9))
            assert doubler.sizes[5:] == [2, 2, 2, 2]
            doubler.fits = 0
            with pytest.raises(OutOfMemory):
                lane.warm_up()

    run(work())


def test_a_light_program_is_warmed_up_with_what_fits(doubler: Doubler) -> None:
    metrics = Metrics("test").lane("toy", 1, "encode")
    settings: dict[str, Any] = {"max_batch": 8, "limits": Limits(), "wait": 0.005}
    lane = QuickBatchLoop("toy", doubler, metrics, **settings, arrivals=Arrivals(), cores=Cores(1))
    doubler.fits = 2
    lane.warm_up()
    lane.lighten(doubler)  # type: ignore[arg-type]
    assert max(doubler.sizes) == 2


def test_a_sampler_paints_what_does_not_fit_in_several_runs(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, slots=8) as lane:
            painter.fits = 3
            jobs = await asyncio.gather(*(paint(lane, n, seed=n, first=5) for n in (1, 3, 30)))
            for job in jobs:
                assert job.images.tobytes() == expected_images(job.seed, 5, job.rows).tobytes()
                # The states went along: 0 + 1 + 2 + 3.
                assert (job.log_likelihood == 6).all()
            assert max(painter.sizes) <= 3
            assert 1 <= count(lane.metrics.out_of_memory) <= 2

    run(work())


def test_a_sampler_in_which_no_sample_fits_says_so_and_goes_on(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        painter.fits = 0
        with pytest.raises(OutOfMemory, match="not even one image fits"):
            await paint(raster, 6)
        painter.fits = 10
        assert (await paint(raster, 6)).images.tobytes() == expected_images(1, 0, 6).tobytes()
        assert raster._queue.total_rows == 0

    run(work())


def test_runs_of_a_fixed_size_halve_as_well(doubler: Doubler, painter: Painter) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(images=1000), max_batch=8, fixed=True) as lane:
            doubler.fits = 5
            assert await double(lane, *range(1, 8)) == [2.0 * value for value in range(1, 8)]
            assert await double(lane, 9) == [18.0]
            assert doubler.sizes == [4, 4, 4]
            assert count(lane.metrics.out_of_memory) == 1
        with painting_lane(painter, slots=8, fixed=True) as sampler:
            painter.fits = 5
            assert (await paint(sampler, 7)).images.tobytes() == expected_images(1, 0, 7).tobytes()
            assert set(painter.sizes) == {4}

    run(work())


def together(lane: BatchLoop, doubler: Doubler, *values: int) -> Awaitable[list[Any]]:
    """Calls of one image each that share a run; what became of each."""

    async def answers() -> list[Any]:
        doubler.gate.clear()
        first = asyncio.create_task(double(lane, 1))
        await until(lambda: bool(lane._hands[0].pieces))
        tasks = [asyncio.create_task(double(lane, value)) for value in values]
        await until(lambda: len(lane._queue) == len(values))
        doubler.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    return answers()


@pytest.mark.parametrize("guilty", [{0}, {7}, {3, 4}, {0, 2, 4, 6}, set(range(8))])
def test_of_a_run_that_fails_only_the_guilty_call_hears(eights: BatchLoop, doubler: Doubler, guilty: set[int]) -> None:
    async def work() -> None:
        outcomes = await together(eights, doubler, *(13 if i in guilty else i + 20 for i in range(8)))
        for i, outcome in enumerate(outcomes):
            if i in guilty:
                assert isinstance(outcome, Internal)
                assert "thirteen" in str(outcome)
            else:
                assert outcome == [2.0 * (i + 20)]
        # One of n: the whole, and both halves log2(n) times; at the worst every node of that tree.
        assert len([run for run in doubler.runs if run != [1]]) <= (7 if len(guilty) == 1 else 15)
        assert await double(eights, 4) == [8.0]
        await until(lambda: not list(eights._hands[0].jobs))

    run(work())


def test_a_run_that_fails_and_whose_parts_do_not_fit_loses_nobody(eights: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.fits = 3
        outcomes = await together(eights, doubler, 21, 22, 23, 13, 25, 26, 27, 28)
        assert [isinstance(outcome, Internal) for outcome in outcomes] == [False] * 3 + [True] + [False] * 4
        assert [outcome for outcome in outcomes if isinstance(outcome, list)] == [
            [2.0 * value] for value in (21, 22, 23, 25, 26, 27, 28)
        ]

    run(work())


def test_a_run_that_was_ended_for_its_time_is_not_tried_again(eights: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.gate.clear()
        tasks = [asyncio.create_task(double(eights, value)) for value in range(1, 6)]
        await until(lambda: bool(eights._hands[0].pieces))
        rows = sum(piece.rows for piece in eights._hands[0].pieces)
        doubler.error = Overdue("ended after 3 s")
        doubler.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, Internal) for outcome in outcomes) == rows

    run(work())


@pytest.mark.parametrize("fixed", [False, True])
def test_of_a_row_that_fails_only_the_guilty_request_hears(painter: Painter, fixed: bool) -> None:
    async def work() -> None:
        with painting_lane(painter, slots=8, fixed=fixed) as lane:
            # Of sample 1 of seed 3 the first pixel of the third row.
            painter.poison = {float(uniforms_of_range(3, 1, 1, (4, 3, 1))[0, 2, 0, 0])}
            painter.gate.clear()
            tasks = [asyncio.create_task(paint(lane, n, seed=n)) for n in (1, 2, 3, 4)]
            await until(lambda: lane.used + lane._queue.total_rows == 10)
            painter.gate.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(outcomes[2], Internal)
            assert "out of paint" in str(outcomes[2])
            for job in (outcomes[0], outcomes[1], outcomes[3]):
                assert isinstance(job, RasterJob)
                assert job.images.tobytes() == expected_images(job.seed, 0, job.rows).tobytes()
                assert (job.log_likelihood == 6).all()
            assert lane.used == 0
            assert lane._queue.total_rows == 0

    run(work())


def test_a_row_that_fails_only_in_company_is_painted_in_parts(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, slots=8) as lane:
            whole = painter.run_row

            def no_more_than_two(inputs: Any, states: Any) -> Any:
                if len(states[0]) > 2:
                    raise RuntimeError("odd")
                return whole(inputs, states)

            painter.run_row = no_more_than_two  # type: ignore[method-assign]
            assert (await paint(lane, 20)).images.tobytes() == expected_images(1, 0, 20).tobytes()

    run(work())
