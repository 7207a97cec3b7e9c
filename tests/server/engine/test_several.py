"""A role on several devices: who is given what, and that all is as with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.job import Priority, ProgressEvents, RasterJob
from ancestral_server.engine.several import Device, SeveralRasters, rasters
from ancestral_server.errors import Overloaded
from fakeprograms import Painter, expected_images, painting_lane, run


class Two:
    """Two devices with a sampler each, which waits until its gate is open."""

    def __init__(self, stack: ExitStack, limits: Limits | None = None) -> None:
        self.painters = [Painter(), Painter()]
        self.parts = [stack.enter_context(painting_lane(each, limits)) for each in self.painters]
        # Images that each has to do, as it is told.
        self.told = [0.0, 0.0]
        self.devices = [Device(self._teller(number)) for number in range(2)]
        several = rasters(self.parts, self.devices)
        assert isinstance(several, SeveralRasters)
        self.several = several

    def _teller(self, number: int) -> Callable[[float], None]:
        def tell(more: float) -> None:
            self.told[number] += more

        return tell

    def close_gates(self) -> None:
        for painter in self.painters:
            painter.gate.clear()

    def open_gates(self) -> None:
        for painter in self.painters:
            painter.gate.set()

    def submit(self, rows: int, seed: int = 1, feed: ProgressEvents | None = None) -> RasterJob:
        future = asyncio.get_running_loop().create_future()
        job = RasterJob(rows=rows, future=future, seed=seed, feed=feed, priority=Priority.INTERACTIVE)
        self.several.submit(job)
        return job


@pytest.fixture
def two() -> Iterator[Two]:
    with ExitStack() as stack:
        yield Two(stack)


def test_one_device_needs_nothing_in_between() -> None:
    with painting_lane(Painter()) as alone:
        assert rasters([alone], []) is alone


def test_each_job_goes_to_the_device_that_has_least_to_do(two: Two) -> None:
    async def work() -> None:
        two.close_gates()
        jobs = [two.submit(rows, seed=rows) for rows in (3, 1, 1, 2, 4)]
        # 3 | 1, 1 and then 2 | 4, since three are fewer than four.
        assert [two.several.balance.whose(job) is two.parts[1] for job in jobs] == [False, True, True, True, False]
        assert two.told == two.several.balance.rows == [7, 4]
        two.open_gates()
        await asyncio.gather(*(job.future for job in jobs))
        for job in jobs:
            assert np.array_equal(job.images, expected_images(job.seed, 0, job.rows))
        await asyncio.sleep(0)
        assert two.told == two.several.balance.rows == [0, 0]
        assert all(two.several.balance.whose(job) is None for job in jobs)

    run(work())


def test_between_equals_the_device_decides_that_has_less_to_do_of_other_models(two: Two) -> None:
    async def work() -> None:
        two.close_gates()
        two.devices[0].count(1)
        jobs = [two.submit(1), two.submit(1), two.submit(1)]
        assert [two.several.balance.whose(job) is two.parts[1] for job in jobs] == [True, False, True]
        two.open_gates()
        await asyncio.gather(*(job.future for job in jobs))

    run(work())


def test_a_device_that_takes_no_calls_is_passed_over(two: Two) -> None:
    async def work() -> None:
        # It is tried again when it has a turn, and it has none.
        two.parts[0].lane._supervisor.failed(0, time.monotonic())
        assert [part.healthy for part in two.parts] == [False, True]
        assert two.several.healthy
        jobs = [two.submit(rows) for rows in (5, 2)]
        assert all(two.several.balance.whose(job) is two.parts[1] for job in jobs)
        await asyncio.gather(*(job.future for job in jobs))
        two.parts[1].lane._supervisor.failed(0, time.monotonic())
        assert not two.several.healthy

    run(work())


def test_what_is_refused_counts_for_nobody() -> None:
    async def work(two: Two) -> None:
        two.close_gates()
        kept: list[RasterJob] = []

        def fill() -> None:
            for _ in range(20):
                kept.append(two.submit(4))  # noqa: PERF401 - those that were taken are kept

        with pytest.raises(Overloaded):
            fill()
        assert len(kept) > 2
        assert sum(two.told) == 4 * len(kept)
        two.open_gates()
        await asyncio.gather(*(job.future for job in kept))

    with ExitStack() as stack:
        run(work(Two(stack, Limits(images=8))))


def test_a_stream_that_is_to_end_ends_with_what_has_begun_wherever_it_is(two: Two) -> None:
    async def work() -> None:
        two.close_gates()
        first = two.submit(1)
        stream = two.submit(50, feed=ProgressEvents(rows=False))
        assert two.several.balance.whose(stream) is two.parts[1]
        two.several.begin_no_more(stream)
        two.open_gates()
        await asyncio.gather(first.future, stream.future)
        assert stream.rows < 50
        # Nobody has it any more.
        two.several.begin_no_more(stream)

    run(work())
