"""Which rows of which jobs run together, who goes first, who is refused, and who hears of a failure: by a simulated
clock.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.job import Priority
from ancestral_server.engine.memory_limit import GROW_SECONDS
from ancestral_server.engine.one_shot import OneShotScheduler
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning
from ancestral_server.engine.queue import PASSES
from ancestral_server.engine.scheduler import IDLE, Wait
from ancestral_server.engine.watch import Run, Watch
from ancestral_server.errors import (
    DeadlineExceeded,
    Infeasible,
    Internal,
    OutOfMemory,
    Overdue,
    Overloaded,
    ServerError,
    Unavailable,
)
from fakeprograms import IMAGE, Doubler
from simulation import CANCELLED, batches, doubled, images, taken

BATCH = Priority.BATCH


def test_a_request_larger_than_a_batch_is_split_and_joined(doubler: Doubler) -> None:
    lane = batches(doubler)
    job = lane.submit(images(*range(1, 11)))
    # 4 + 4 + 2, the last one in a bucket of its own size.
    assert lane.work() == [4, 4, 2]
    assert doubler.sizes == [4, 4, 2]
    assert lane.outcome(job) is None
    assert doubled(job) == [2.0 * i for i in range(1, 11)]
    assert job.batch_size == 4


def test_several_requests_share_a_run_and_get_their_own_rows(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8)
    jobs = [lane.submit(images(*values)) for values in ((1,), (2, 3), (4, 5))]
    assert lane.work() == [5]
    assert doubler.sizes == [8]
    assert [doubled(job) for job in jobs] == [[2.0], [4.0, 6.0], [8.0, 10.0]]
    # Without padding.
    assert [job.batch_size for job in jobs] == [5, 5, 5]


def test_a_job_that_is_watched_remembers_its_runs_and_whose_rows_they_held(doubler: Doubler) -> None:
    lane = batches(doubler)
    lane.now = 10.0
    small, large, other = (lane.submit(images(*values)) for values in ((1,), range(2, 7), (7,)))
    small.watch, large.watch = Watch("small"), Watch("large")
    assert lane.work(seconds=1.0) == [4, 3]
    first = Run(10.0, 10.0, 11.0, 4, 4, 2, ("small", "large"))
    assert small.watch.runs == [first]
    assert large.watch.runs == [first, Run(11.0, 11.0, 12.0, 3, 4, 2, ("large",))]
    assert other.watch is None


def test_a_run_that_failed_is_remembered_too_and_so_are_its_parts(doubler: Doubler) -> None:
    lane = batches(doubler)
    lane.now = 10.0
    jobs = [lane.submit(images(value)) for value in (1, 2)]
    jobs[0].watch = Watch("first")
    lane.end(lane.begin(), seconds=1.0, error=RuntimeError("of onnxruntime"))
    lane.work(seconds=1.0)
    assert [(run.began, run.rows) for run in jobs[0].watch.runs] == [(10.0, 2), (11.0, 1)]


def test_where_runs_have_one_size_none_is_of_another(doubler: Doubler) -> None:
    lane = batches(doubler, fixed=True)
    jobs = [lane.submit(images(*values)) for values in ((1,), range(2, 8))]
    lane.work()
    assert [doubled(job) for job in jobs] == [[2.0], [2.0 * value for value in range(2, 8)]]
    assert set(doubler.sizes) == {4}


def test_a_run_holds_no_more_rows_than_it_may_take_time_for(doubler: Doubler) -> None:
    # A row takes a millisecond, and a run may take three.
    lane = batches(doubler, max_batch=8, run_seconds=[0.001, 0.002, 0.004, 0.008], longest=0.003)
    lane.submit(images(*range(1, 7)))
    assert lane.work(seconds=0.002) == [2, 2, 2]
    # One row may take as long as it does.
    lane = batches(doubler, max_batch=8, run_seconds=1.0, longest=0.003)
    lane.submit(images(1, 2))
    assert lane.work(seconds=1.0) == [1, 1]


def test_a_size_that_was_thought_too_long_is_tried_again_some_day(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=2, run_seconds=[0.001, 0.1], longest=0.003)
    runs = 0
    while 2 not in doubler.sizes:
        lane.submit(images(1, 2))
        lane.work(seconds=0.001)
        lane.now += 1.5
        runs += 1
        assert runs < 100
    assert runs > 10


def test_seats_share_what_is_queued(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8, run_seconds=[1.0, 2.0, 4.0, 8.0], seats=4)
    job = lane.submit(images(*range(20, 28)))
    steps = [lane.begin(seat) for seat in range(4)]
    assert [taken(step) for step in steps] == [[20, 21], [22, 23], [24, 25], [26, 27]]
    for seat in (2, 0, 3, 1):
        assert not lane.answered(job)
        lane.end(steps[seat], seat)
    assert doubled(job) == [2.0 * value for value in range(20, 28)]


def test_seats_do_not_share_what_is_cheaper_together(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8, run_seconds=1.0, seats=4)
    lane.submit(images(*range(20, 28)))
    assert taken(lane.begin(0)) == list(range(20, 28))
    assert lane.begin(1) == IDLE


# ---- who goes first


def test_a_batch_holds_interactive_rows_first_and_is_filled_up(doubler: Doubler) -> None:
    lane = batches(doubler)
    lane.submit(images(*range(20, 27), priority=BATCH))
    for value in (2, 3):
        lane.submit(images(value))
    lane.work()
    assert doubler.runs == [[2, 3, 20, 21], [22, 23, 24, 25], [26]]


def test_batch_jobs_get_a_run_in_eight_while_interactive_ones_fill_the_lane(doubler: Doubler) -> None:
    lane = batches(doubler)
    lane.submit(images(*[200] * 8, priority=BATCH))
    for _ in range(2 * PASSES + 2):
        lane.submit(images(*[2] * 4))
    lane.work()
    assert [index for index, run in enumerate(doubler.runs) if 200 in run] == [PASSES, 2 * PASSES + 1]


def test_a_small_call_waits_for_a_turn_of_a_large_one_and_not_for_all_of_it(doubler: Doubler) -> None:
    lane = batches(doubler)
    lane.submit(images(*range(20, 60)))
    lane.submit(images(2))
    lane.work()
    assert [index for index, run in enumerate(doubler.runs) if 2 in run] == [1]
    assert len(doubler.runs) == 11


# ---- who is not run


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_the_cancelled_and_the_expired_are_never_run(doubler: Doubler, how: str) -> None:
    lane = batches(doubler)
    running = lane.begin() if lane.submit(images(1)) else None
    gone = lane.submit(images(13, deadline=1.0))
    if how == "cancelled":
        gone.cancelled = True
    else:
        lane.now = 1.0
    lane.end(running)
    kept = lane.submit(images(4))
    lane.work()
    assert doubler.sizes == [1, 1]
    assert doubled(kept) == [8.0]
    assert lane.outcome(gone) == CANCELLED if how == "cancelled" else isinstance(lane.outcome(gone), DeadlineExceeded)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_the_rest_of_a_split_call_is_not_run_once_nobody_waits(doubler: Doubler, how: str) -> None:
    lane = batches(doubler)
    large = lane.submit(images(*range(20, 60), deadline=1.0))
    step = lane.begin()
    large.cancelled = how == "cancelled"
    lane.end(step, seconds=2.0)
    assert lane.work() == []
    assert doubler.runs == [[20, 21, 22, 23]]
    assert lane.answered(large)
    assert lane.scheduler.queue.total_rows == 0


# ---- who waits


def test_a_batch_waits_for_its_crowd_and_no_longer_than_it_may(doubler: Doubler) -> None:
    policy = Adaptive(Arrivals().coming, AdaptiveTuning(longest=0.02))
    lane = batches(doubler, policy=policy, run_seconds=1.0)
    for value in (1, 2, 3):
        lane.submit(images(value))
    lane.work(seconds=1.0)
    assert doubler.sizes == [4]
    # Three were there a moment ago: two wait for the third, and after a pause go without.
    for value in (1, 2):
        lane.submit(images(value))
    wait = lane.begin()
    assert isinstance(wait, Wait)
    assert wait.wake_at == 3
    lane.submit(images(3))
    assert lane.turn(seconds=1.0) == 3
    for value in (1, 2):
        lane.submit(images(value))
    wait = lane.begin()
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(0.008)
    lane.now += 0.008
    assert lane.turn() == 2


# ---- who is refused


def test_one_full_batch_may_wait_and_no_interactive_work_beyond(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0)
    lane.submit(images(1))
    running = lane.begin()
    waiting = [lane.submit(images(value)) for value in (2, 3, 4, 5)]
    with pytest.raises(
        Overloaded,
        match=r"4 images are queued, 1 more make 2 s of work, above the limit of 1 s "
        r"\(the server's --max-queue-ms 50, or what a full batch or twice this call takes\)$",
    ) as no:
        lane.submit(images(6))
    assert no.value.retry_seconds == pytest.approx(1.0)
    batch = lane.submit(images(6, priority=BATCH))
    lane.end(running)
    lane.work(seconds=1.0)
    assert all(lane.outcome(job) is None for job in (*waiting, batch))


def test_work_that_costs_little_may_wait_up_to_the_floor(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0, limits=Limits(seconds=3.0))
    for value in range(20, 32):
        lane.submit(images(value))
    with pytest.raises(Overloaded):
        lane.submit(images(40))


def test_an_empty_queue_takes_any_job_and_a_large_one_may_wait_for_as_much_as_it_is(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0)
    for _ in range(2):
        lane.submit(images(*range(20, 60)))
    with pytest.raises(Overloaded):
        lane.submit(images(*range(20, 60)))


@pytest.mark.parametrize("priority", Priority)
def test_calls_are_bounded_whatever_they_cost(doubler: Doubler, priority: Priority) -> None:
    lane = batches(doubler, limits=Limits(calls=3))
    for value in (2, 3, 4):
        lane.submit(images(value, priority=priority))
    with pytest.raises(Overloaded, match=r"3 calls are queued, which is the limit \(the server's --max-queued-calls"):
        lane.submit(images(5, priority=priority))


@pytest.mark.parametrize("priority", Priority)
def test_what_does_not_fit_the_queue_is_refused_with_a_delay(doubler: Doubler, priority: Priority) -> None:
    lane = batches(doubler, limits=Limits(images=10))
    lane.submit(images(*range(20, 29), priority=priority))
    with pytest.raises(Overloaded, match="9 images are queued, 2 more would exceed the limit of 10 images") as refusal:
        lane.submit(images(7, 8, priority=priority))
    assert refusal.value.retry_seconds > 0


def test_draws_of_an_image_do_not_fill_the_queue_for_others(doubler: Doubler) -> None:
    lane = batches(doubler, limits=Limits(images=10))
    many = images(*[1] * 30, priority=Priority.BATCH)
    many.draws = 6
    lane.submit(many)
    lane.submit(images(*range(2, 7), priority=Priority.BATCH))
    with pytest.raises(Overloaded, match="10 images are queued, 1 more would exceed the limit of 10 images"):
        lane.submit(images(7, priority=Priority.BATCH))


def test_a_deadline_is_judged_with_what_is_ahead(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0)
    lane.submit(images(1))
    running = lane.begin()
    # The run that goes on and a run of its own: two seconds.
    lane.submit(images(2, deadline=2.5))
    for value in (3, 4, 5):
        lane.submit(images(value))
    for priority in Priority:
        with pytest.raises(Infeasible, match=r"2.5 s remain, toy needs at least 3 s for 1 images, 4 queued ahead"):
            lane.submit(images(6, deadline=2.5, priority=priority))
    lane.end(running, seconds=1.0)
    lane.work(seconds=1.0)
    assert not any(6 in run for run in doubler.runs)


def test_with_several_seats_a_deadline_is_judged_by_the_first_that_is_free(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0, seats=2)
    lane.submit(images(*range(20, 24), priority=BATCH))
    lane.begin(0)
    lane.submit(images(2, deadline=1.5))
    with pytest.raises(Infeasible):
        lane.submit(images(2, deadline=0.5))


def test_a_flood_of_refusals_leaves_the_measured_costs_as_they_are(doubler: Doubler) -> None:
    lane = batches(doubler, run_seconds=1.0)
    lane.submit(images(1))
    lane.begin()
    for _ in range(50):
        with pytest.raises(Infeasible, match="needs at least 2 s"):
            lane.submit(images(6, deadline=0.5))


def test_a_slow_phase_does_not_turn_callers_away_for_ever(doubler: Doubler) -> None:
    # A stalled machine made every run seem to take a minute, and nobody without a deadline comes to prove it wrong.
    lane = batches(doubler, run_seconds=60.0)
    refused = 0
    while True:
        try:
            job = lane.submit(images(1, deadline=5.0))
            break
        except Infeasible:
            refused += 1
            assert refused < 200
    assert refused > 0
    lane.work()
    assert lane.outcome(job) is None


# ---- failures


def test_only_the_guilty_request_of_a_batch_hears_of_a_failed_run(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8)
    jobs = [lane.submit(images(*values)) for values in ((1, 2), (13,), (3,), (4, 5))]
    lane.work()
    assert [lane.outcome(job) for job in (jobs[0], *jobs[2:])] == [None] * 3
    assert [doubled(job) for job in (jobs[0], *jobs[2:])] == [[2.0, 4.0], [6.0], [8.0, 10.0]]
    guilty = lane.outcome(jobs[1])
    assert isinstance(guilty, Internal)
    assert "toy: the run failed: thirteen" in str(guilty)
    # All of them; then half and half, of which one went well; then one and one.
    assert doubler.runs == [[1, 2, 13, 3, 4, 5], [1, 2, 13], [1, 2], [13], [3, 4, 5]]


@pytest.mark.parametrize("error", [Overdue("a run was ended after 60 s"), ValueError("a mistake of ours")])
def test_what_would_take_as_long_again_or_is_our_fault_is_not_tried_again(doubler: Doubler, error: Exception) -> None:
    lane = batches(doubler)
    jobs = [lane.submit(images(value)) for value in (1, 2, 3)]
    lane.end(lane.begin(), error=error)
    assert all(isinstance(lane.outcome(job), Internal) and str(error) in str(lane.outcome(job)) for job in jobs)
    assert lane.work() == []


def test_a_split_request_whose_run_fails_is_given_up_as_a_whole(doubler: Doubler) -> None:
    lane = batches(doubler)
    job = lane.submit(images(1, 2, 3, 13, 5, 6, 7, 8, 9))
    other = lane.submit(images(10))
    lane.work()
    assert isinstance(lane.outcome(job), Internal)
    assert lane.outcome(other) is None
    assert [run for run in doubler.runs if 9 in run] == []


def test_a_request_that_fails_for_two_seats_is_answered_once(doubler: Doubler) -> None:
    lane = batches(doubler, seats=2)
    job = lane.submit(images(*[13] * 8))
    steps = [lane.begin(seat) for seat in range(2)]
    for seat in range(2):
        lane.end(steps[seat], seat)
    assert isinstance(lane.outcome(job), Internal)
    assert lane.work() == []


def test_a_batch_that_does_not_fit_is_run_in_halves_and_nobody_hears(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8)
    doubler.fits = 2
    values = [[2, 3, 4], [5], [6], [7], [8], list(range(20, 40))]
    jobs = [lane.submit(images(*each)) for each in values]
    runs = lane.work()
    assert [doubled(job) for job in jobs] == [[2.0 * value for value in each] for each in values]
    # 8 and 4 did not fit; from then on nothing larger than 2 is tried.
    assert runs[:3] == [8, 4, 2]
    assert max(runs[2:]) == 2


def test_the_batch_grows_back(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8)
    doubler.fits = 4
    lane.submit(images(*range(1, 9)))
    lane.work()
    doubler.fits = 8
    lane.now += GROW_SECONDS
    lane.submit(images(*range(1, 9)))
    lane.work()
    assert doubler.sizes == [4, 4, 8]


def test_a_row_that_does_not_fit_fails_alone(doubler: Doubler) -> None:
    lane = batches(doubler)
    doubler.fits = 0
    job = lane.submit(images(1, 2, 3))
    lane.work()
    told = lane.outcome(job)
    assert isinstance(told, OutOfMemory)
    assert "not even 1 image fits into memory: out of memory: the fake is full" in str(told)
    doubler.fits = 8
    other = lane.submit(images(1, 2))
    lane.work()
    assert doubled(other) == [2.0, 4.0]


def test_runs_of_a_fixed_size_halve_as_well(doubler: Doubler) -> None:
    lane = batches(doubler, max_batch=8, fixed=True)
    doubler.fits = 5
    jobs = [lane.submit(images(*range(1, 8))), lane.submit(images(9))]
    lane.work()
    assert [doubled(job) for job in jobs] == [[2.0 * value for value in range(1, 8)], [18.0]]
    assert doubler.sizes == [4, 4]


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_rows_that_are_to_be_run_again_are_not_once_nobody_waits(doubler: Doubler, how: str) -> None:
    lane = batches(doubler)
    doubler.fits = 2
    gone, kept = lane.submit(images(1, 2, deadline=1.0)), lane.submit(images(3, 4))
    step = lane.begin()
    gone.cancelled = how == "cancelled"
    lane.end(step, seconds=1.0)
    lane.work()
    assert doubler.runs == [[3, 4]]
    assert lane.outcome(kept) is None
    assert lane.answered(gone)


def test_what_is_abandoned_is_answered_wherever_it_was(doubler: Doubler) -> None:
    lane = batches(doubler, seats=2)
    doubler.fits = 2
    again = lane.submit(images(1, 2, 3, 4))
    lane.end(lane.begin(0), 0)
    running, waiting = lane.submit(images(5, 6)), lane.submit(images(7))
    lane.begin(0)
    other = lane.submit(images(8))
    lane.abandon(Internal("no"), seat=0)
    assert not lane.answered(waiting)
    error: ServerError = Unavailable("toy", "gone")
    lane.abandon(error)
    for job in (again, running, waiting, other):
        assert isinstance(lane.outcome(job), Internal | Unavailable)
    assert lane.begin(0) == IDLE
    assert not lane.scheduler.pending(0)


def test_nothing_waits_for_ever(doubler: Doubler) -> None:
    """Whatever a scheduler waits for is over some time, as long as anything is queued."""
    lane = batches(doubler, policy=Adaptive(lambda now: 1, AdaptiveTuning()))
    lane.submit(images(1))
    wait = lane.begin()
    assert isinstance(wait, Wait)
    assert wait.seconds is not None
    assert wait.seconds < math.inf


@pytest.mark.parametrize("verb", ["finish", "fail"])
def test_a_failure_halfway_through_a_decision_leaves_nobody_without_an_answer(
    doubler: Doubler, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    lane = batches(doubler)
    assert isinstance(lane.scheduler, OneShotScheduler)
    job = lane.submit(images(1, 2))
    step = lane.begin()
    with monkeypatch.context() as patch:
        patch.setattr(lane.scheduler.costs, "learn", lambda *_: 1 / 0)
        patch.setattr(lane.scheduler.memory, "shrink", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lane.end(step, error=None if verb == "finish" else MemoryError())
    # As a lane does then.
    lane.abandon(Internal("no"), seat=0)
    assert isinstance(lane.outcome(job), Internal)


@pytest.mark.parametrize("when", ["the second request is taken", "rows to be run again are taken", "all are taken"])
def test_a_failure_after_rows_were_taken_leaves_nobody_without_an_answer(
    doubler: Doubler, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lane = batches(doubler)
    assert isinstance(lane.scheduler, OneShotScheduler)
    queue = lane.scheduler.queue
    # Of the last one rows stay in the queue, or in those that are to be run again.
    jobs = [lane.submit(images(*values)) for values in ((1,), (2, 3), (4, 5, 6))]
    if when.startswith("rows"):
        lane.end(lane.begin(), error=OutOfMemory("out of memory: the fake is full"))
    with monkeypatch.context() as patch:
        take = queue.take
        if when.startswith("the"):
            patch.setattr(queue, "take", lambda job, rows: take(job, rows) if job is jobs[0] else 1 / 0)
        else:
            patch.setattr(lane.scheduler, "size", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lane.begin()
    # As a lane does then.
    lane.abandon(Internal("no"), seat=0)
    lane.work()
    told = [lane.outcome(job) for job in jobs]
    assert isinstance(told[0], Internal)
    assert [outcome is None or isinstance(outcome, Internal) for outcome in told] == [True] * 3
    assert lane.scheduler.waiting == queue.total_rows == 0
    other = lane.submit(images(9))
    lane.work()
    assert doubled(other) == [18]


@pytest.mark.parametrize("error", [OutOfMemory("out of memory: the fake is full"), RuntimeError("of somebody's")])
def test_rows_that_are_to_be_run_again_are_waiting_for_any_seat(doubler: Doubler, error: Exception) -> None:
    """A lane wakes a seat that idles as long as any are waiting, also where nothing is queued."""
    lane = batches(doubler, seats=2)
    jobs = [lane.submit(images(value, value)) for value in (1, 2)]
    assert lane.scheduler.waiting == 2
    step = lane.begin(0)
    assert lane.begin(1) == IDLE
    assert lane.scheduler.waiting == 0
    lane.end(step, 0, error=error)
    assert not lane.scheduler.queue
    assert lane.scheduler.waiting > 0
    halves = [lane.begin(seat) for seat in range(2)]
    assert lane.scheduler.waiting == 0
    for seat, half in enumerate(halves):
        lane.end(half, seat)
    assert [doubled(job) for job in jobs] == [[2, 2], [4, 4]]


def test_a_run_that_loses_rows_gives_nobody_the_rows_of_others(
    doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph does that leaves out what it does not like, by the data."""
    run = doubler.run

    def pick(inputs: Any, wanted: Any) -> Any:
        return {meaning: array[inputs[IMAGE][:, 0] != 5] for meaning, array in run(inputs, wanted).items()}

    monkeypatch.setattr(doubler, "run", pick)
    lane = batches(doubler)
    jobs = [lane.submit(images(value)) for value in (4, 5, 6)]
    lane.work()
    assert lane.outcome(jobs[0]) is None
    assert doubled(jobs[0]) == [8]
    assert str(lane.outcome(jobs[1])).endswith("the run failed: the graph gave [0, 1] for 1 rows")
    assert lane.outcome(jobs[2]) is None
    assert doubled(jobs[2]) == [12]
