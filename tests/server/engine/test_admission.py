"""Who is refused, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.job import Priority
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import DeadlineExceeded, Infeasible, Overloaded
from fakeprograms import Doubler, Painter, batch_lane, double, expected_images, paint, painting_lane, run, until

RUN_SECONDS = 1.0


@pytest.fixture
def slow(doubler: Doubler) -> Iterator[BatchLoop]:
    """A lane of batches of 4 that has learned that each run takes a second, whatever its size."""
    with batch_lane(doubler, Limits(calls=6)) as lane:
        for size in (1, 2, 4):
            lane._costs.learn(size, RUN_SECONDS)
        yield lane


async def occupy(lane: BatchLoop, doubler: Doubler) -> asyncio.Task[list[float]]:
    """A run that goes on until the gate opens."""
    doubler.gate.clear()
    running = asyncio.create_task(double(lane, 1))
    await until(lambda: not lane._queue and bool(lane._hands[0].pieces))
    return running


async def queue(lane: BatchLoop, *values: int, priority: Priority = Priority.INTERACTIVE) -> asyncio.Task[list[float]]:
    before = len(lane._queue)
    task = asyncio.create_task(double(lane, *values, priority=priority))
    await until(lambda: len(lane._queue) > before)
    return task


def test_one_full_batch_may_wait_and_no_interactive_work_beyond(slow: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        running = await occupy(slow, doubler)
        waiting = [await queue(slow, value) for value in (2, 3, 4, 5)]
        with pytest.raises(
            Overloaded,
            match=r"4 images are queued, 1 more make 2 s of work, above the limit of 1 s "
            r"\(the server's --max-queue-ms 50, or what a full batch or twice this call takes\)$",
        ) as no:
            await double(slow, 6)
        assert no.value.retry_seconds == pytest.approx(RUN_SECONDS)
        batch = await queue(slow, 6, priority=Priority.BATCH)
        doubler.gate.set()
        assert [await task for task in (running, *waiting, batch)] == [[2.0 * value] for value in range(1, 7)]

    run(work())


def test_work_that_costs_little_may_wait_up_to_the_floor(doubler: Doubler) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(seconds=3 * RUN_SECONDS)) as lane:
            for size in (1, 2, 4):
                lane._costs.learn(size, RUN_SECONDS)
            running = await occupy(lane, doubler)
            waiting = [await queue(lane, value) for value in range(20, 32)]
            with pytest.raises(Overloaded):
                await double(lane, 40)
            doubler.gate.set()
            await asyncio.gather(running, *waiting)

    run(work())


def test_an_empty_queue_takes_any_job_and_a_large_one_may_wait_for_as_much_as_it_is(
    slow: BatchLoop, doubler: Doubler
) -> None:
    async def work() -> None:
        running = await occupy(slow, doubler)
        large = [await queue(slow, *range(20, 60)), await queue(slow, *range(20, 60))]
        with pytest.raises(Overloaded):
            await double(slow, *range(20, 60))
        doubler.gate.set()
        for task in (running, *large):
            await task

    run(work())


def test_a_small_call_waits_for_a_turn_of_a_large_one_and_not_for_all_of_it(doubler: Doubler) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(images=100)) as lane:
            running = await occupy(lane, doubler)
            large = await queue(lane, *range(20, 60))
            small = await queue(lane, 2)
            doubler.gate.set()
            assert await large == [2.0 * value for value in range(20, 60)]
            await asyncio.gather(running, small)
        # The first run, a turn of the large one, and then together.
        assert [index for index, images in enumerate(doubler.runs) if 2 in images] == [2]
        assert len(doubler.runs) == 1 + 11

    run(work())


@pytest.mark.parametrize("priority", Priority)
def test_calls_are_bounded_whatever_they_cost(doubler: Doubler, priority: Priority) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(calls=3)) as lane:
            running = await occupy(lane, doubler)
            waiting = [await queue(lane, value, priority=priority) for value in (2, 3, 4)]
            with pytest.raises(
                Overloaded, match=r"3 calls are queued, which is the limit \(the server's --max-queued-calls"
            ):
                await double(lane, 5, priority=priority)
            doubler.gate.set()
            await asyncio.gather(running, *waiting)

    run(work())


def test_a_deadline_is_judged_with_what_is_ahead(slow: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        running = await occupy(slow, doubler)
        # The run that goes on and a run of its own: two seconds.
        first = asyncio.create_task(double(slow, 2, deadline=2.5 * RUN_SECONDS))
        await until(lambda: len(slow._queue) == 1)
        others = [await queue(slow, value) for value in (3, 4, 5)]
        with pytest.raises(Infeasible, match=r"remain, toy needs at least .* s for 1 images, 4 queued ahead of them"):
            await double(slow, 6, deadline=2.5 * RUN_SECONDS)
        with pytest.raises(Infeasible):
            await double(slow, 6, deadline=2.5 * RUN_SECONDS, priority=Priority.BATCH)
        doubler.gate.set()
        await asyncio.gather(running, first, *others)
        assert not any(6 in images for images in doubler.runs)

    run(work())


def test_a_flood_of_refusals_leaves_the_measured_costs_as_they_are(slow: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        running = await occupy(slow, doubler)
        for _ in range(50):
            with pytest.raises(Infeasible):
                await double(slow, 6, deadline=0.5 * RUN_SECONDS)
        assert slow._costs.seconds(1) == RUN_SECONDS
        doubler.gate.set()
        await running

    run(work())


def test_warming_up_measures_every_bucket(doubler: Doubler) -> None:
    doubler.run_seconds = 0.01
    with batch_lane(doubler) as lane:
        lane.warm_up()
        assert all(lane._costs.seconds(size) >= 0.01 for size in (1, 2, 4))


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_the_rest_of_a_split_call_is_not_run_once_nobody_waits(doubler: Doubler, how: str) -> None:
    async def work() -> None:
        with batch_lane(doubler, Limits(images=1000)) as lane:
            doubler.gate.clear()
            deadline = 0.2 if how == "expired" else 60
            large = asyncio.create_task(double(lane, *range(20, 60), deadline=deadline))
            await until(lambda: bool(lane._hands[0].pieces))
            if how == "cancelled":
                large.cancel()
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.25)
            doubler.gate.set()
            with pytest.raises(asyncio.CancelledError if how == "cancelled" else DeadlineExceeded):
                await large
            assert await double(lane, 7) == [14.0]
            assert doubler.runs == [[20, 21, 22, 23], [7]]
            counted = lane.metrics._dropped[how]._value.get()
            assert counted == 1
            assert lane._queue.total_rows == 0

    run(work())


def test_a_sampler_takes_what_its_free_slots_hold_and_half_as_much_again(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, Limits(seconds=0), slots=8) as lane:
            for size in range(1, 9):
                lane._costs.learn(size, 1.0)
            painter.gate.clear()
            # One more than the 8 slots in hand, and half of the 7 that are for all.
            tasks = [asyncio.create_task(paint(lane, 1, seed=seed)) for seed in range(12)]
            await until(lambda: lane.used == 8 or sum(task.done() for task in tasks) > 0)
            more = [asyncio.create_task(paint(lane, 1, seed=seed)) for seed in range(12, 20)]
            await until(lambda: any(task.done() for task in more))
            painter.gate.set()
            outcomes = await asyncio.gather(*tasks, *more, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
            assert len(refused) + sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 20
            assert 20 - 8 - 4 - 1 <= len(refused) <= 20 - 8
            assert all(0 < error.retry_seconds < 8 for error in refused)

    run(work())


def test_a_single_image_is_taken_beside_a_giant_however_long_that_takes(painter: Painter) -> None:
    async def work() -> None:
        with painting_lane(painter, Limits(seconds=0), slots=8) as lane:
            for size in range(1, 9):
                lane._costs.learn(size, 0.01)
            giant = asyncio.create_task(paint(lane, 5000))
            await until(lambda: painter.rows > 8)
            assert (await paint(lane, 1, seed=3)).images.tobytes() == expected_images(3, 0, 1).tobytes()
            assert not giant.done()
            giant.cancel()

    run(work())


def test_a_sampler_judges_a_deadline_with_what_waits(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        for size in range(1, 5):
            raster._costs.learn(size, 0.1)
        painter.gate.clear()
        # 4 rows of a tenth of a second, 3 samples at a time: about 4 seconds.
        giant = asyncio.create_task(paint(raster, 30))
        await until(lambda: raster.used > 0)
        with pytest.raises(Infeasible):
            await paint(raster, 30, deadline=5)
        single = asyncio.create_task(paint(raster, 1, deadline=5))
        painter.gate.set()
        await single
        await giant

    run(work())
