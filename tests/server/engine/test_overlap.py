"""Rows that are painted elsewhere, as on a GPU: what is done meanwhile, and that nothing is lost or mixed up by it."""

from __future__ import annotations

from typing import Any

import pytest

from ancestral_server.engine.job import Priority, ProgressEvents
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.scheduler import IDLE
from ancestral_server.errors import DeadlineExceeded, DeviceLost, Internal, Unavailable
from fakeprograms import Easel, Painter, paint, painting_lane, run
from simulation import CANCELLED, Simulation, right, sampler, samples, used

HEIGHT = Painter.image_shape[0]


@pytest.fixture
def easel() -> Easel:
    return Easel()


def test_samples_of_all_requests_are_their_own_whoever_comes_and_goes(easel: Easel) -> None:
    lane = sampler(easel, slots=8)
    jobs = [lane.submit(samples(n, seed=n)) for n in (1, 2, 3, 9, 30)]
    for seed in range(40, 60):
        lane.turn()
        jobs.append(lane.submit(samples(seed % 5 + 1, seed=seed, priority=Priority(seed % 2))))
    lane.work()
    assert all(lane.outcome(job) is None and right(job) for job in jobs)
    assert easel.begun == easel.ended
    assert used(lane) == 0
    assert lane.begin() == IDLE


def test_newcomers_are_let_in_while_a_row_is_painted_and_join_the_next(easel: Easel) -> None:
    lane = sampler(easel, slots=8)
    lane.submit(samples(2, seed=1))
    lane.turn()
    lane.submit(samples(3, seed=2))
    lane.turn()
    assert easel.placed == [0, 1]
    lane.work()
    # The first row of two, then three times all five, then the rest.
    assert easel.sizes == [2, 5, 5, 5, 3]


def test_no_row_goes_by_between_two_that_have_all_the_slots(easel: Easel) -> None:
    """Those who take the places of a row's last samples are handed over while it is painted."""
    lane = sampler(easel, slots=1)
    jobs = [lane.submit(samples(1, seed=seed)) for seed in range(5)]
    lane.work()
    assert all(map(right, jobs))
    assert easel.sizes == [1] * 5 * HEIGHT
    assert easel.placed == [0, 1, 1, 1, 1]


def test_whoever_finds_no_place_beside_those_who_failed_waits_for_the_row_to_end(easel: Easel) -> None:
    """Runs that fail while a row is painted leave their samples in the slots until it ends."""
    lane = sampler(easel, slots=4)
    lane.submit(samples(4))
    lane.turn()
    for seed in range(4):
        lane.submit(samples(3, seed=seed))
        lane.end(lane.begin(), error=RuntimeError("out of paint"))
    job = lane.submit(samples(3, seed=9))
    lane.work()
    assert lane.outcome(job) is None
    assert right(job)
    assert used(lane) == 0


def test_a_stream_hears_of_each_row_and_image_once_and_in_order(easel: Easel) -> None:
    lane = sampler(easel)
    job, other = samples(2), samples(3, seed=2)
    job.feed = ProgressEvents(rows=True)
    lane.submit(job)
    lane.turn()
    assert not job.feed.events
    lane.submit(other)
    lane.turn()
    assert list(job.feed.events) == [(0, 0), (1, 0)]
    lane.work()
    for sample in range(2):
        assert [row for index, row in job.feed.events if index == sample] == [0, 1, 2, 3, None]
    assert right(job)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_whoever_leaves_while_a_row_is_painted_frees_his_slots_for_the_next(easel: Easel, how: str) -> None:
    lane = sampler(easel)
    long = lane.submit(samples(900, deadline=1.0))
    lane.turn()
    other = lane.submit(samples(3, seed=2))
    if how == "cancelled":
        long.cancelled = True
    else:
        lane.now = 1.0
    lane.turn()
    told = lane.outcome(long)
    assert told == CANCELLED if how == "cancelled" else isinstance(told, DeadlineExceeded)
    assert used(lane) == other.taken == 3
    assert lane.scheduler.queue.total_rows == 0
    lane.work()
    assert right(other)


def test_who_loses_the_device_hears_so_and_so_does_whoever_comes_after(
    easel: Easel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = sampler(easel)
    jobs = [lane.submit(samples(n, seed=n)) for n in (2, 9)]
    lane.turn()

    def lost(*_: object) -> None:
        raise DeviceLost("CUDA_ERROR_ILLEGAL_ADDRESS (700)")

    monkeypatch.setattr(easel, "run_row", lost)
    lane.turn()
    late = lane.submit(samples(1, seed=3))
    lane.work()
    for job in (*jobs, late):
        told = lane.outcome(job)
        assert isinstance(told, DeviceLost)
        assert isinstance(told, Unavailable)
        assert str(told).endswith(": CUDA_ERROR_ILLEGAL_ADDRESS (700)")
    assert used(lane) == 0


def test_a_mistake_of_ours_is_told_to_all_who_were_painted_and_the_lane_goes_on(
    easel: Easel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane: Simulation[Any] = sampler(easel)
    assert isinstance(lane.scheduler, RasterScheduler)
    jobs = [lane.submit(samples(2, seed=seed)) for seed in range(2)]
    lane.turn()
    lane.end(lane.begin(), error=RuntimeError("out of paint"))
    assert all(isinstance(lane.outcome(job), Internal) for job in jobs)
    other = lane.submit(samples(3, seed=9))
    lane.work()
    assert right(other)


def test_what_a_row_costs_is_from_its_beginning_to_its_end(easel: Easel) -> None:
    lane = sampler(easel)
    assert isinstance(lane.scheduler, RasterScheduler)
    lane.submit(samples(2))
    lane.turn(seconds=7.0)
    lane.turn(seconds=3.0)
    assert lane.scheduler.costs.seconds(2) == 10.0


def test_a_lane_counts_a_row_once_when_it_has_ended(easel: Easel) -> None:
    async def work() -> None:
        with painting_lane(easel, slots=8) as lane:
            jobs = [await paint(lane, n, seed=n) for n in (1, 12, 3)]
            assert all(map(right, jobs))
            sizes = lane.stats.sizes()
            assert sum(rows * runs.count for rows, runs in sizes) == 16 * HEIGHT

    run(work())
