"""What both kinds of lane promise, with programs that can be told to fail or to wait."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import weakref

import numpy as np
import pytest

from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.job import OneShotJob, RasterJob
from ancestral_server.engine.niceness import ROWS, RUNS
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, Overloaded, Unavailable
from fakeprograms import (
    IMAGE,
    MEAN,
    Doubler,
    Painter,
    batch_lane,
    double,
    expected_images,
    paint,
    painting_lane,
    run,
    until,
)


def test_a_request_larger_than_a_batch_is_split_and_joined(batches: BatchLoop, doubler: Doubler) -> None:
    assert run(double(batches, *range(1, 11))) == [2.0 * i for i in range(1, 11)]
    # 4 + 4 + 2, the last one in a bucket of its own size.
    assert doubler.sizes == [4, 4, 2]


def test_a_lane_of_fixed_size_never_runs_another(doubler: Doubler, painter: Painter) -> None:
    async def work() -> None:
        with batch_lane(doubler, max_batch=4, fixed=True) as lane:
            lane.warm_up()
            doubler.sizes.clear()
            assert await double(lane, 1) == [2.0]
            assert await double(lane, *range(1, 7)) == [2.0 * i for i in range(1, 7)]
            assert set(doubler.sizes) == {4}
        with painting_lane(painter, slots=4, fixed=True) as sampler:
            jobs = await asyncio.gather(*(paint(sampler, n, seed=n) for n in (1, 6)))
            assert [job.images.tobytes() for job in jobs] == [expected_images(n, 0, n).tobytes() for n in (1, 6)]
            assert set(painter.sizes) == {4}

    run(work())


def test_a_failed_run_answers_its_own_callers_and_nobody_else(batches: BatchLoop) -> None:
    async def work() -> None:
        with pytest.raises(Internal, match="thirteen"):
            await double(batches, 1, 2, 3, 4, 13, 6, 7, 8, 9)
        assert await double(batches, 5) == [10.0]

    run(work())


def test_an_answer_is_kept_by_nobody_but_its_caller(batches: BatchLoop, raster: RasterLoop) -> None:
    """An array of onnxruntime's keeps the memory of a whole batch, so nothing may wait for the garbage collector."""

    async def work() -> None:
        future = asyncio.get_running_loop().create_future
        inputs = {IMAGE: np.zeros((1, 1), np.uint8)}
        encoded = await batches.ask(OneShotJob(rows=1, future=future(), inputs=inputs, wanted=[MEAN]))
        painted = await paint(raster, 1)
        answers = [weakref.ref(encoded.pieces[MEAN][0]), weakref.ref(painted.images)]
        del encoded, painted
        # The lanes' threads are done with them in a moment.
        await until(lambda: not any(answer() is not None for answer in answers))

    gc.disable()
    try:
        run(work())
    finally:
        gc.enable()


def test_what_does_not_fit_the_queue_is_refused_at_once_with_a_delay(batches: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.gate.clear()
        running = asyncio.create_task(double(batches, 1))
        await until(lambda: not batches._queue and bool(batches._hands[0].pieces))
        waiting = asyncio.create_task(double(batches, *range(20, 29)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="limit of 10") as refusal:
            await double(batches, 7, 8)
        assert refusal.value.retry_seconds > 0
        doubler.gate.set()
        assert await running == [2.0]
        assert len(await waiting) == 9

    run(work())


def test_the_cancelled_and_the_expired_are_never_run(batches: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.gate.clear()
        running = asyncio.create_task(double(batches, 1))
        await until(lambda: not batches._queue and bool(batches._hands[0].pieces))
        cancelled = asyncio.create_task(double(batches, 13))
        expired = asyncio.create_task(double(batches, 13, deadline=0.01))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.sleep(0)
        doubler.gate.set()
        with pytest.raises(DeadlineExceeded):
            await expired
        assert await running == [2.0]
        assert await double(batches, 4) == [8.0]
        assert doubler.sizes == [1, 1]

    run(work())


@pytest.mark.parametrize("after_rows", [0, 2, 6])
def test_a_job_that_begins_no_more_samples_ends_with_those_that_it_has_begun(
    raster: RasterLoop, painter: Painter, after_rows: int
) -> None:
    async def work() -> None:
        if not after_rows:
            painter.gate.clear()
        painter.row_seconds = 0.02
        other = asyncio.create_task(paint(raster, 3, seed=2)) if not after_rows else None
        if other:
            await until(lambda: raster.used == 3)
        future = asyncio.get_running_loop().create_future()
        job = RasterJob(rows=500, future=future, seed=1)
        asking = asyncio.create_task(raster.ask(job))
        await until(lambda: bool(raster._queue) and painter.rows >= after_rows)
        raster.begin_no_more(job)
        painter.gate.set()
        await asking
        assert job.rows == job.taken == job.done < 500
        assert (job.rows > 0) == (after_rows > 0)
        if job.rows:
            assert np.array_equal(job.images[: job.rows], expected_images(1, 0, job.rows))
        assert job.queue_seconds >= 0
        assert raster._queue.total_rows == 0
        raster.begin_no_more(job)
        if other:
            await other
        assert (await paint(raster, 3, seed=2)).done == 3

    run(work())


def test_closing_answers_whoever_still_waits(batches: BatchLoop, doubler: Doubler) -> None:
    async def work() -> None:
        doubler.gate.clear()
        running = asyncio.create_task(double(batches, 1))
        await until(lambda: not batches._queue and bool(batches._hands[0].pieces))
        waiting = asyncio.create_task(double(batches, 2))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batches.close))
        await until(lambda: batches._closing)
        doubler.gate.set()
        await closing
        assert await running == [2.0]
        for late in (waiting, double(batches, 3)):
            with pytest.raises(Unavailable):
                await late

    run(work())


def test_samples_of_all_requests_share_the_rows_and_are_their_own(raster: RasterLoop) -> None:
    async def work() -> None:
        jobs = await asyncio.gather(*(paint(raster, n, seed=n, first=5) for n in (1, 2, 3, 9, 30)))
        for job in jobs:
            assert np.array_equal(job.images, expected_images(job.seed, 5, job.rows))
            # The state counted 0, 1, 2, 3: each sample began at zero, whatever stood in its slot before.
            assert (job.log_likelihood == 6).all()

    run(work())


def test_a_short_request_does_not_wait_for_a_long_one(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        # 400 images, 4 at a time, 4 rows each: two seconds, of which the short one needs a hundredth.
        painter.row_seconds = 0.005
        long = asyncio.create_task(paint(raster, 400))
        await until(lambda: painter.rows > 8)
        await paint(raster, 1)
        assert not long.done()
        painter.row_seconds = 0.0
        assert np.array_equal((await long).images, expected_images(1, 0, 400))

    run(work())


def test_cancelling_frees_the_slots_at_the_next_row(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        long = asyncio.create_task(paint(raster, 900))
        await until(lambda: painter.rows > 2)
        long.cancel()
        await until(lambda: raster._slots[0].used == 0 and raster._queue.total_rows == 0)
        assert np.array_equal((await paint(raster, 3)).images, expected_images(1, 0, 3))

    run(work())


def test_a_failed_row_answers_every_sample_in_it_and_the_lane_goes_on(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        painter.gate.clear()
        tasks = [asyncio.create_task(paint(raster, 3, seed=s)) for s in range(3)]
        await asyncio.sleep(0.02)
        painter.fail = True
        painter.gate.set()
        for task in tasks:
            with pytest.raises(Internal, match="out of paint"):
                await task
        painter.fail = False
        assert np.array_equal((await paint(raster, 6)).images, expected_images(1, 0, 6))
        assert raster._queue.total_rows == 0

    run(work())


def test_an_expired_sampling_is_given_up_between_rows(raster: RasterLoop, painter: Painter) -> None:
    async def work() -> None:
        with pytest.raises(DeadlineExceeded):
            await paint(raster, 990, deadline=0.01)
        assert (await paint(raster, 1)).done == 1

    run(work())


def test_a_slow_phase_does_not_turn_callers_away_for_ever(raster: RasterLoop) -> None:
    async def work() -> None:
        # A stalled machine made every row seem to take a minute, and nobody without a deadline comes to prove it wrong.
        for size in range(1, 5):
            raster._costs.learn(size, 60.0)
        refused = 0
        while True:
            try:
                job = await paint(raster, 1, deadline=5)
                break
            except Infeasible:
                refused += 1
                assert refused < 200
        assert refused > 0
        assert np.array_equal(job.images, expected_images(1, 0, 1))

    run(work())


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux only")
def test_the_threads_of_a_sampler_give_way_and_no_others(batches: BatchLoop, raster: RasterLoop) -> None:
    def niceness(lane: BatchLoop | RasterLoop) -> int:
        thread = lane._threads[0].native_id
        assert thread is not None
        return os.getpriority(os.PRIO_PROCESS, thread)

    async def work() -> None:
        await asyncio.gather(double(batches, 1), paint(raster, 1))

    run(work())
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(batches) == min(19, mine + RUNS)
    assert niceness(raster) == min(19, mine + ROWS)
