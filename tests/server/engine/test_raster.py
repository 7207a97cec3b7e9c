"""Which samples share the rows, who gets the slots, who is refused, who hears of a failure: by a simulated clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ancestral.v1 import bundle_pb2
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.job import Priority, ProgressEvents
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.scheduler import IDLE
from ancestral_server.errors import (
    DeadlineExceeded,
    Infeasible,
    Internal,
    OutOfMemory,
    Overdue,
    Overloaded,
    Unavailable,
)
from fakeprograms import Painter
from simulation import CANCELLED, right, sampler, samples, used

BATCH = Priority.BATCH
HEIGHT = Painter.image_shape[0]


def test_samples_of_all_requests_share_the_rows_and_are_their_own(painter: Painter) -> None:
    lane = sampler(painter)
    jobs = [lane.submit(samples(n, seed=n)) for n in (1, 2, 3, 9, 30)]
    lane.work()
    assert all(lane.outcome(job) is None and right(job) for job in jobs)


def test_where_runs_have_one_size_none_is_of_another(painter: Painter) -> None:
    lane = sampler(painter, fixed=True)
    jobs = [lane.submit(samples(n, seed=n)) for n in (1, 6)]
    lane.work()
    assert all(map(right, jobs))
    assert set(painter.sizes) == {4}


def test_seats_share_what_waits(painter: Painter) -> None:
    lane = sampler(painter, slots=8, seats=2)
    job = lane.submit(samples(8))
    steps = [lane.begin(seat) for seat in range(2)]
    assert [step.rows for step in steps] == [4, 4]
    for _ in range(HEIGHT):
        for seat in range(2):
            lane.end(steps[seat], seat)
        steps = [lane.begin(seat) for seat in range(2)]
    assert steps == [IDLE, IDLE]
    assert right(job)
    assert job.batch_size == 4


def test_a_short_request_does_not_wait_for_a_long_one(painter: Painter) -> None:
    lane = sampler(painter)
    long = lane.submit(samples(400))
    lane.turn()
    short = lane.submit(samples(1, seed=2))
    # The last slot is kept for it.
    for _ in range(HEIGHT):
        lane.turn()
    assert right(short)
    assert not lane.answered(long)
    lane.work()
    assert right(long)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_whoever_leaves_frees_his_slots_at_the_next_row(painter: Painter, how: str) -> None:
    lane = sampler(painter)
    long, other = lane.submit(samples(900, deadline=1.0)), lane.submit(samples(3, seed=2))
    lane.turn()
    if how == "cancelled":
        long.cancelled = True
    else:
        lane.now = 1.0
    lane.turn()
    assert used(lane) == other.taken == 3
    assert lane.scheduler.queue.total_rows == 0
    lane.work()
    assert right(other)
    told = lane.outcome(long)
    assert told == CANCELLED if how == "cancelled" else isinstance(told, DeadlineExceeded)


@pytest.mark.parametrize("after_rows", [0, 2, 6])
def test_a_job_that_begins_no_more_samples_ends_with_those_that_it_has_begun(painter: Painter, after_rows: int) -> None:
    lane = sampler(painter)
    assert isinstance(lane.scheduler, RasterScheduler)
    job = lane.submit(samples(500))
    for _ in range(after_rows):
        lane.turn()
    lane.scheduler.begin_no_more(job, lane.now)
    lane.scheduler.begin_no_more(job, lane.now)
    lane.collect()
    assert lane.answered(job) == (not after_rows)
    lane.work()
    assert lane.outcome(job) is None
    assert job.rows == job.taken == job.done < 500
    assert (job.rows > 0) == (after_rows > 0)
    assert right(job) if job.rows else job.queue_seconds >= 0
    assert lane.scheduler.queue.total_rows == 0


def test_a_stream_hears_of_each_row_and_image_once_and_in_order(painter: Painter) -> None:
    lane = sampler(painter)
    job = samples(2)
    job.feed = ProgressEvents(rows=True)
    lane.submit(job)
    lane.work()
    events = list(job.feed.events)
    for sample in range(2):
        assert [row for index, row in events if index == sample] == [0, 1, 2, 3, None]


# ---- who goes first


def test_an_interactive_job_passes_batch_jobs_that_wait_for_slots(painter: Painter) -> None:
    lane = sampler(painter)
    bulk = [lane.submit(samples(100, seed=seed, priority=BATCH)) for seed in range(4)]
    lane.turn()
    job = lane.submit(samples(12, seed=9))
    while not lane.answered(job):
        lane.turn()
    # It took 7 of 8 turns: all of it within some 16 samples of theirs.
    assert sum(each.waiting for each in bulk) > 300
    lane.work()
    assert all(right(each) for each in (job, *bulk))


def test_batch_jobs_are_painted_while_interactive_ones_keep_coming(painter: Painter) -> None:
    lane = sampler(painter)
    bulk = lane.submit(samples(20, priority=BATCH))
    flood = [lane.submit(samples(500, seed=seed)) for seed in range(4)]
    while not lane.answered(bulk):
        lane.turn()
    assert not any(lane.answered(job) for job in flood)


def test_batch_jobs_leave_the_last_slots_to_others(painter: Painter) -> None:
    lane = sampler(painter, slots=8)
    for seed in range(10):
        lane.submit(samples(20, seed=seed, priority=BATCH))
    lane.turn()
    assert used(lane) == 7
    job = lane.submit(samples(1, seed=77))
    for _ in range(HEIGHT):
        lane.turn()
    assert lane.outcome(job) is None


# ---- who is refused


def test_a_sampler_takes_what_its_free_slots_hold_and_half_as_much_again(painter: Painter) -> None:
    lane = sampler(painter, slots=8, row_seconds=1.0, limits=Limits(seconds=0))
    taken = refused = 0
    delays = []
    for seed in range(20):
        try:
            lane.submit(samples(1, seed=seed))
            taken += 1
        except Overloaded as error:
            refused += 1
            delays.append(error.retry_seconds)
    # The 8 slots, and half of the 7 that are for all.
    assert (taken, refused) == (11, 9)
    assert all(0 < delay < 8 for delay in delays)


def test_a_single_image_is_taken_beside_a_giant_however_long_that_takes(painter: Painter) -> None:
    lane = sampler(painter, slots=8, row_seconds=0.01, limits=Limits(seconds=0))
    giant = lane.submit(samples(5000))
    lane.turn()
    single = lane.submit(samples(1, seed=3))
    for _ in range(HEIGHT + 1):
        lane.turn()
    assert right(single)
    assert not lane.answered(giant)


def test_a_sampler_judges_a_deadline_with_what_waits(painter: Painter) -> None:
    lane = sampler(painter, row_seconds=0.1)
    # 4 rows of a tenth of a second, 3 samples at a time: about 4 seconds.
    giant = lane.submit(samples(30))
    lane.turn()
    with pytest.raises(Infeasible):
        lane.submit(samples(30, deadline=5))
    single = lane.submit(samples(1, deadline=5))
    lane.work()
    assert right(giant)
    assert right(single)


def test_a_slow_phase_does_not_turn_callers_away_for_ever(painter: Painter) -> None:
    lane = sampler(painter, row_seconds=60.0)
    refused = 0
    while True:
        try:
            job = lane.submit(samples(1, deadline=5))
            break
        except Infeasible:
            refused += 1
            assert refused < 200
    assert refused > 0
    lane.work()
    assert right(job)


# ---- failures


def test_samples_that_do_not_fit_are_painted_in_several_runs(painter: Painter) -> None:
    lane = sampler(painter, slots=8)
    painter.fits = 3
    jobs = [lane.submit(samples(n, seed=n)) for n in (1, 3, 30)]
    lane.work()
    # The states went along.
    assert all(map(right, jobs))
    assert max(painter.sizes) <= 3


def test_who_leaves_before_any_row_was_painted_hurts_nobody(painter: Painter) -> None:
    """The first row did not fit: the slots are taken, and there are no states yet."""
    lane = sampler(painter)
    first, second = lane.submit(samples(2, seed=1, deadline=0.01)), lane.submit(samples(2, seed=2))
    step = lane.begin()
    lane.end(step, error=OutOfMemory("out of memory: the fake is full"), seconds=0.02)
    lane.work()
    assert isinstance(lane.outcome(first), DeadlineExceeded)
    assert lane.outcome(second) is None
    assert right(second)


def test_a_sampler_in_which_no_sample_fits_says_so_and_goes_on(painter: Painter) -> None:
    lane = sampler(painter)
    painter.fits = 0
    job = lane.submit(samples(6))
    lane.work()
    told = lane.outcome(job)
    assert isinstance(told, OutOfMemory)
    assert "not even one image fits" in str(told)
    painter.fits = 10
    other = lane.submit(samples(6, seed=2))
    lane.work()
    assert right(other)


def test_runs_of_a_fixed_size_halve_as_well(painter: Painter) -> None:
    lane = sampler(painter, slots=8, fixed=True)
    painter.fits = 5
    job = lane.submit(samples(7))
    lane.work()
    assert right(job)
    assert set(painter.sizes) == {4}


def test_only_the_guilty_request_hears_of_a_failed_row(painter: Painter) -> None:
    lane = sampler(painter, slots=16)
    jobs = [lane.submit(samples(n, seed=seed)) for seed, n in enumerate((3, 1, 2, 4, 1))]
    lane.turn()
    painter.poison = jobs[2].seed
    lane.work()
    assert [isinstance(lane.outcome(job), Internal) for job in jobs] == [False, False, True, False, False]
    assert "toy: the run failed: out of paint" in str(lane.outcome(jobs[2]))
    assert all(right(job) for job in jobs if job is not jobs[2])
    assert used(lane) == 0


def test_who_comes_while_a_failed_row_is_tried_in_parts_takes_no_row_from_others(painter: Painter) -> None:
    """The newcomer's sample has not been placed yet when it is put before one that has painted a row."""
    lane = sampler(painter)
    first, guilty, halved = (lane.submit(samples(n, seed=seed)) for seed, n in ((3, 1), (2, 1), (0, 2)))
    painter.poison = guilty.seed
    lane.work()
    assert isinstance(lane.outcome(guilty), Internal)
    assert right(first)
    assert right(halved)


def test_a_row_that_loses_samples_gives_nobody_the_pixels_of_others(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph does that leaves out what it does not like, by the data; of two samples one would be both."""
    run, hot = painter.run_row, 0.5

    def pick(inputs: Any, states: Any) -> Any:
        kept = inputs[bundle_pb2.MEANING_TEMPERATURE] != hot
        row, likelihood, after = run(inputs, states)
        return row[kept], likelihood[kept], [state[kept] for state in after]

    monkeypatch.setattr(painter, "run_row", pick)
    lane = sampler(painter)
    innocent, guilty = samples(1, seed=1), samples(1, seed=2)
    guilty.temperature = hot
    lane.submit(innocent)
    lane.submit(guilty)
    lane.work()
    assert lane.outcome(innocent) is None
    assert right(innocent)
    assert "the graph gave [0, 3, 1] for 1 rows" in str(lane.outcome(guilty))


def test_a_call_that_memory_cannot_hold_is_refused_alone_and_others_go_on(painter: Painter) -> None:
    # More bytes than any machine addresses.
    huge = 2**52
    lane = sampler(painter, limits=Limits(images=2 * huge))
    before, giant, after = lane.submit(samples(2, seed=1)), samples(huge, seed=2), samples(2, seed=3)
    lane.turn()
    for job in (giant, after):
        lane.submit(job)
    lane.work()
    told = lane.outcome(giant)
    assert isinstance(told, OutOfMemory)
    assert str(told).startswith(f"toy: {huge} images of one call do not fit into memory now: ask for fewer at a time (")
    assert [lane.outcome(job) for job in (before, after)] == [None, None]
    assert right(before)
    assert right(after)
    assert used(lane) == lane.scheduler.queue.total_rows == 0


def test_a_call_whose_samples_cannot_begin_fails_alone(painter: Painter) -> None:
    """By what it brings, some samples late: it holds slots then."""
    lane = sampler(painter)
    guilty, other = samples(5, seed=1), samples(5, seed=2)
    guilty.indices = [0, 1]
    for job in (guilty, other):
        lane.submit(job)
    lane.work()
    assert isinstance(lane.outcome(guilty), Internal)
    assert "the call's samples cannot begin: list index out of range" in str(lane.outcome(guilty))
    assert lane.outcome(other) is None
    assert right(other)
    assert used(lane) == 0


def test_all_are_answered_even_where_there_is_no_memory_to_begin_anew(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = sampler(painter, seats=2)
    jobs = [lane.submit(samples(3, seed=seed)) for seed in range(6)]
    for seat in range(2):
        lane.begin(seat)
    with monkeypatch.context() as patch:
        patch.setattr(painter, "blank", lambda *_: np.empty(2**55))
        with pytest.raises(MemoryError):
            lane.abandon(Unavailable("toy", "gone"))
    lane.collect()
    assert all(isinstance(lane.outcome(job), Unavailable) for job in jobs)
    assert [lane.begin(seat) for seat in range(2)] == [IDLE, IDLE]


@pytest.mark.parametrize("error", [Overdue("a run was ended after 60 s"), ValueError("a mistake of ours")])
def test_what_would_take_as_long_again_or_is_our_fault_is_not_tried_again(painter: Painter, error: Exception) -> None:
    lane = sampler(painter)
    jobs = [lane.submit(samples(1, seed=seed)) for seed in range(3)]
    lane.end(lane.begin(), error=error)
    assert all(isinstance(lane.outcome(job), Internal) and str(error) in str(lane.outcome(job)) for job in jobs)
    assert lane.begin() == IDLE


def test_a_sampler_that_fails_for_all_tells_all_and_goes_on(painter: Painter) -> None:
    lane = sampler(painter)
    jobs = [lane.submit(samples(3, seed=seed)) for seed in range(3)]
    lane.turn()
    painter.fail = True
    lane.work()
    assert all(isinstance(lane.outcome(job), Internal) for job in jobs)
    painter.fail = False
    other = lane.submit(samples(6))
    lane.work()
    assert right(other)
    assert lane.scheduler.queue.total_rows == 0


def test_what_is_abandoned_is_answered_wherever_it_was(painter: Painter) -> None:
    lane = sampler(painter, seats=2)
    jobs = [lane.submit(samples(3, seed=seed)) for seed in range(6)]
    steps = [lane.begin(seat) for seat in range(2)]
    lane.abandon(Internal("no"), seat=0)
    failed = [job for job in jobs if lane.answered(job)]
    assert 0 < len(failed) < 6
    lane.end(steps[1], 1)
    lane.abandon(Unavailable("toy", "gone"))
    assert all(isinstance(lane.outcome(job), Internal | Unavailable) for job in jobs)
    assert [lane.begin(seat) for seat in range(2)] == [IDLE, IDLE]
