"""Interactive jobs first, and batch jobs never last for ever."""

from __future__ import annotations

import asyncio

import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.job import Priority
from ancestral_server.engine.queue import PASSES
from ancestral_server.engine.raster_loop import RasterLoop
from fakeprograms import Doubler, Painter, batch_lane, double, paint, painting_lane, run, until

BATCH = Priority.BATCH


def test_a_batch_holds_interactive_rows_first_and_is_filled_up(doubler: Doubler) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(images=1000)) as lane:
            doubler.gate.clear()
            tasks = [asyncio.create_task(double(lane, 1))]
            await until(lambda: bool(lane._hands[0].pieces))
            tasks.append(asyncio.create_task(double(lane, *range(20, 27), priority=BATCH)))
            tasks += [asyncio.create_task(double(lane, value)) for value in (2, 3)]
            await until(lambda: len(lane._queue) == 3)
            doubler.gate.set()
            await asyncio.gather(*tasks)
        assert doubler.runs == [[1], [2, 3, 20, 21], [22, 23, 24, 25], [26]]

    run(work())


@pytest.mark.parametrize(("run_seconds", "bulk"), [(0.0, 8), (0.02, 4)])
def test_a_short_run_of_bulk_alone_holds_two_batches(doubler: Doubler, run_seconds: float, bulk: int) -> None:
    doubler.run_seconds = run_seconds

    async def work() -> None:
        with batch_lane(doubler, Limits(images=1000)) as lane:
            lane.warm_up()
            doubler.gate.clear()
            doubler.runs.clear()
            tasks = [asyncio.create_task(double(lane, 1, priority=BATCH))]
            await until(lambda: bool(lane._hands[0].pieces))
            tasks.append(asyncio.create_task(double(lane, *[20] * 16, priority=BATCH)))
            await until(lambda: len(lane._queue) == 1)
            doubler.gate.set()
            await until(lambda: len(doubler.runs) >= 2)
            tasks.append(asyncio.create_task(double(lane, *[2] * 16)))
            await asyncio.gather(*tasks)
        assert len(doubler.runs[1]) == bulk
        # Where somebody waits for an answer, what is gained is not worth his time.
        assert all(len(images) <= 4 for images in doubler.runs if 2 in images)

    run(work())


def test_batch_jobs_get_a_run_in_eight_while_interactive_ones_fill_the_lane(doubler: Doubler) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(images=1000)) as lane:
            doubler.gate.clear()
            tasks = [asyncio.create_task(double(lane, 1))]
            await until(lambda: bool(lane._hands[0].pieces))
            tasks.append(asyncio.create_task(double(lane, *[200] * 8, priority=BATCH)))
            tasks += [asyncio.create_task(double(lane, *[2] * 4)) for _ in range(2 * PASSES + 2)]
            await until(lambda: len(lane._queue) == len(tasks) - 1)
            doubler.gate.set()
            await asyncio.gather(*tasks)
        turns = [index for index, images in enumerate(doubler.runs) if 200 in images]
        assert turns == [1 + PASSES, 1 + 2 * PASSES + 1]

    run(work())


def test_an_interactive_job_passes_batch_jobs_that_wait_for_slots(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        painter.row_seconds = 0.002
        # 400 images, 3 at a time, 4 rows each: a second.
        bulk = [asyncio.create_task(paint(raster, 100, seed=seed, priority=BATCH)) for seed in range(4)]
        await until(lambda: painter.rows > 8)
        job = await paint(raster, 12, seed=9)
        assert not any(task.done() for task in bulk)
        assert job.done == 12
        # It took 7 of 8 turns: all of it within some 16 samples of theirs.
        done = sum(task.waiting for task in raster._queue)
        assert done > 300
        painter.row_seconds = 0.0
        await asyncio.gather(*bulk)

    run(work())


def test_batch_jobs_are_painted_while_interactive_ones_keep_coming(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter) as lane:
            bulk = asyncio.create_task(paint(lane, 20, priority=BATCH))
            flood = [asyncio.create_task(paint(lane, 500, seed=seed)) for seed in range(4)]
            await bulk
            assert not any(task.done() for task in flood)
            for task in flood:
                task.cancel()

    run(work())


def test_batch_jobs_leave_the_last_slots_to_others(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, slots=8) as lane:
            painter.gate.clear()
            bulk = [asyncio.create_task(paint(lane, 20, seed=seed, priority=BATCH)) for seed in range(10)]
            await until(lambda: lane.used > 0)
            painter.row_seconds = 0.01
            painter.gate.set()
            await until(lambda: painter.rows > 2)
            assert lane.used == 7
            await paint(lane, 1, seed=77)
            assert not any(task.done() for task in bulk)
            painter.row_seconds = 0.0
            await asyncio.gather(*bulk)

    run(work())
