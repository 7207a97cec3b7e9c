"""What schedulers promise whatever happens, in whatever order: a state machine on a simulated clock.

Jobs come, leave, expire and are poisonous; runs of several seats begin, end, fail, and do not fit into memory; time
passes. Every job is answered exactly once; nothing is run after its deadline or after its caller has left; who comes
first is served first, within a class, and no class starves; results do not depend on company; only who is to blame
hears of a failure; whoever waits gets a run some day, and a closed lane leaves nobody waiting.
"""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.job import Job, OneShotJob, Priority, RasterJob
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning, Immediate
from ancestral_server.engine.queue import PASSES
from ancestral_server.engine.raster import RasterScheduler, RowStep
from ancestral_server.engine.scheduler import Wait
from ancestral_server.errors import (
    DeadlineExceeded,
    Infeasible,
    Internal,
    OutOfMemory,
    Overloaded,
    ServerError,
    Unavailable,
)
from fakeprograms import Doubler, Easel, Painter, expected_images, expected_likelihood
from simulation import CANCELLED, Simulation, batches, doubled, images, sampler, samples

J = TypeVar("J", bound=Job)
SEATS = 2
POISON = 13
# 150 × 50 steps of each of the two machines.
SETTINGS = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
PRIORITIES = st.sampled_from(Priority)
# Seconds from now; half of the callers have all the time in the world.
DEADLINES = st.one_of(st.just(math.inf), st.sampled_from([0.01, 0.05, 0.3, 2.0]))


class Promises(RuleBasedStateMachine, Generic[J]):
    """What holds for both kinds of scheduler; a machine for each says what a job is and how its rows are counted."""

    lane: Simulation[J]

    def __init__(self) -> None:
        super().__init__()
        # In the order of admission, and those of them whom a poisonous row is in.
        self.jobs: list[J] = []
        self.guilty: set[int] = set()
        # What runs, by seat.
        self.steps: dict[int, Any] = {}
        # Whether a row has ever not fitted by itself.
        self.starved_of_memory = False
        # By class: turns in succession that were all another's while one of its jobs waited.
        self.passed_over = dict.fromkeys(Priority, 0)

    # ---- what happens

    def admit(self, job: J, guilty: bool) -> None:
        try:
            self.lane.submit(job)
        except (Overloaded, Infeasible):
            return
        self.jobs.append(job)
        if guilty:
            self.guilty.add(id(job))

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1, 1.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.lane.now += seconds

    @rule(which=st.integers(0, 1000))
    def a_caller_leaves(self, which: int) -> None:
        waiting = [job for job in self.jobs if not job.answered]
        if waiting:
            waiting[which % len(waiting)].cancelled = True

    @rule(seat=st.integers(0, SEATS - 1))
    def a_seat_is_asked(self, seat: int) -> None:
        if seat not in self.steps:
            self.begin(seat)

    @precondition(lambda self: self.steps)
    @rule(which=st.integers(0, SEATS - 1), seconds=st.sampled_from([0.0, 0.002, 0.2]))
    def a_run_ends(self, which: int, seconds: float) -> None:
        seat = sorted(self.steps)[which % len(self.steps)]
        self.lane.end(self.steps.pop(seat), seat, seconds)

    @precondition(lambda self: self.steps)
    @rule(which=st.integers(0, SEATS - 1))
    def some_run_does_not_fit(self, which: int) -> None:
        self.a_run_does_not_fit(sorted(self.steps)[which % len(self.steps)])

    def a_run_does_not_fit(self, seat: int) -> None:
        step = self.steps.pop(seat)
        self.starved_of_memory = True
        self.lane.end(step, seat, error=OutOfMemory("out of memory: the fake is full"))

    def begin(self, seat: int) -> Wait | None:
        """Ask a seat; its wait, if it has nothing to run."""
        before = {id(job): job.taken for job in self.jobs}
        # Who has lost his right to be run, by now.
        gone = {id(job) for job in self.jobs if job.departed(self.lane.now)}
        step = self.lane.begin(seat)
        self.check_turns(before, gone)
        if isinstance(step, Wait):
            return step
        self.steps[seat] = step
        ran = self.jobs_of(step)
        assert ran or self.ends_a_row(step)
        assert not any(id(job) in gone for job in ran), "it was run although nobody waited for it any more"
        return None

    def ends_a_row(self, step: Any) -> bool:
        """Whether a step waits for what was begun before it, and so may begin nothing."""
        return isinstance(step, RowStep) and step.slots.painting is not None

    # ---- what holds

    def check_turns(self, before: dict[int, int], gone: set[int]) -> None:
        """First come, first served: nobody begins before one of his class who came earlier."""
        begun = [job for job in self.jobs if before[id(job)] == 0 and job.taken]
        for job in begun:
            earlier = self.jobs[: self.jobs.index(job)]
            assert all(
                other.taken or id(other) in gone or other.answered
                for other in earlier
                if other.priority is job.priority
            ), "who came later was served first"

    @invariant()
    def everybody_is_answered_once(self) -> None:
        told = [id(job) for job, _ in self.lane.outcomes]
        assert len(told) == len(set(told))
        assert set(told) == {id(job) for job in self.jobs if job.answered}

    @invariant()
    def nobody_is_in_the_queue_who_should_not_be(self) -> None:
        queue = self.lane.scheduler.queue
        for priority in Priority:
            waiting = list(queue.classes[priority])
            assert all(job.priority is priority and job.waiting > 0 for job in waiting)
            assert queue.rows[priority] == sum(job.waiting for job in waiting)

    def check_outcomes(self) -> None:
        for job, outcome in self.lane.outcomes:
            if outcome is None:
                assert self.right(job), "not its own rows"
                assert job.done == job.rows
                assert job.submitted <= job.started <= job.finished
            elif outcome == CANCELLED:
                assert job.cancelled
            elif isinstance(outcome, DeadlineExceeded):
                assert job.deadline <= self.lane.now
            elif isinstance(outcome, OutOfMemory):
                assert self.starved_of_memory
            elif isinstance(outcome, Internal):
                assert id(job) in self.guilty, "it heard of a failure for which it was not to blame"
            else:
                assert isinstance(outcome, Unavailable)

    def work_off(self) -> None:
        """Everybody gets a run, if all is well from now on and time passes."""
        for seat in list(self.steps):
            self.lane.end(self.steps.pop(seat), seat)
        for _ in range(5000):
            waits = [self.begin(seat) for seat in range(SEATS)]
            for seat in list(self.steps):
                self.lane.end(self.steps.pop(seat), seat, 0.001)
            if any(wait is None for wait in waits):
                continue
            pauses = [wait.seconds for wait in waits if wait is not None and wait.seconds is not None]
            if not pauses:
                break
            self.lane.now += min(pauses)
        assert all(job.answered for job in self.jobs), "somebody waits for ever"

    def close(self) -> None:
        """The lane closes when its runs have ended, with rows left that are to be run again."""
        error: ServerError = Unavailable("toy", "toy is being shut down")
        for seat in list(self.steps):
            self.a_run_does_not_fit(seat)
        self.lane.abandon(error)
        assert all(job.answered for job in self.jobs)
        assert not self.lane.scheduler.queue
        assert all(isinstance(self.lane.begin(seat), Wait) for seat in range(SEATS))
        assert not any(self.lane.scheduler.pending(seat) for seat in range(SEATS))

    def teardown(self) -> None:
        if not hasattr(self, "lane"):
            return
        if len(self.jobs) % 2:
            self.work_off()
        self.close()
        self.everybody_is_answered_once()
        self.check_outcomes()

    # ---- what a machine says

    def jobs_of(self, step: Any) -> list[J]:
        """Whose rows a step holds."""
        raise NotImplementedError

    def right(self, job: J) -> bool:
        """Whether a job has the answer that it would have had alone."""
        raise NotImplementedError


class Batches(Promises[OneShotJob]):
    @initialize(
        adaptive=st.booleans(), fixed=st.booleans(), longest=st.sampled_from([0.003, math.inf]), slow=st.booleans()
    )
    def begin_with(self, adaptive: bool, fixed: bool, longest: float, slow: bool) -> None:
        self.arrivals = Arrivals()
        policy = Adaptive(self.arrivals.coming, AdaptiveTuning(longest=0.02)) if adaptive else Immediate()
        self.lane = batches(
            Doubler(),
            limits=Limits(images=60, calls=12, seconds=0.2),
            policy=policy,
            run_seconds=[0.001, 0.002, 0.004] if slow else 0.0,
            seats=SEATS,
            longest=longest,
            fixed=fixed,
        )

    @rule(
        rows=st.integers(1, 11),
        first=st.integers(14, 240),
        priority=PRIORITIES,
        seconds=DEADLINES,
        guilty=st.booleans(),
    )
    def somebody_asks(self, rows: int, first: int, priority: Priority, seconds: float, guilty: bool) -> None:
        values = [*range(first, first + rows - 1), POISON if guilty else first + rows - 1]
        self.admit(images(*values, deadline=self.lane.now + seconds, priority=priority), guilty)

    @rule()
    def a_call_is_on_its_way(self) -> None:
        self.arrivals.begin(self.lane.now)

    @invariant()
    def no_class_starves(self) -> None:
        """Runs are taken from the queue by turns, see `JobQueue.order`; interactive jobs wait for one turn at most."""
        assert self.passed_over[Priority.BATCH] <= PASSES + 1
        assert self.passed_over[Priority.INTERACTIVE] <= 1

    def check_turns(self, before: dict[int, int], gone: set[int]) -> None:
        super().check_turns(before, gone)
        taken = [job for job in self.jobs if job.taken > before[id(job)]]
        if not taken:
            return
        for priority in Priority:
            waited = bool(self.lane.scheduler.queue.classes[priority])
            served = any(job.priority is priority for job in taken)
            self.passed_over[priority] = self.passed_over[priority] + 1 if waited and not served else 0

    def jobs_of(self, step: Any) -> list[OneShotJob]:
        return [piece.job for piece in step.pieces]

    def right(self, job: OneShotJob) -> bool:
        (values,) = job.inputs.values()
        assert isinstance(values, np.ndarray)
        return doubled(job) == [2.0 * int(value) for value in values[:, 0]]


class Samples(Promises[RasterJob]):
    @initialize(fixed=st.booleans(), slow=st.booleans(), poison=st.integers(0, 3), overlaps=st.booleans())
    def begin_with(self, fixed: bool, slow: bool, poison: int, overlaps: bool) -> None:
        # A row that is painted elsewhere is never run again in parts, to find out whose fault it was.
        painter = Easel() if overlaps else Painter()
        self.poison = None if overlaps else poison
        painter.poison = self.poison
        self.lane = sampler(
            painter,
            limits=Limits(images=60, calls=12, seconds=0.2),
            row_seconds=0.001 if slow else 0.0,
            seats=SEATS,
            fixed=fixed and not overlaps,
        )

    @rule(count=st.integers(1, 9), seed=st.integers(0, 3), priority=PRIORITIES, seconds=DEADLINES)
    def somebody_asks(self, count: int, seed: int, priority: Priority, seconds: float) -> None:
        job = samples(count, seed, self.lane.now + seconds, priority)
        self.admit(job, guilty=seed == self.poison)

    @rule(which=st.integers(0, 1000))
    def somebody_wants_no_more(self, which: int) -> None:
        assert isinstance(self.lane.scheduler, RasterScheduler)
        waiting = [job for job in self.jobs if not job.answered]
        if waiting:
            self.lane.scheduler.begin_no_more(waiting[which % len(waiting)], self.lane.now)
            self.lane.collect()

    def jobs_of(self, step: Any) -> list[RasterJob]:
        slots = step.slots
        if slots.overlaps:
            # Those of the row that is being painted are in their slots until it ends.
            return [job for job in slots.jobs[: slots.used] if not job.answered]
        return list(slots.jobs[: step.rows])

    def right(self, job: RasterJob) -> bool:
        images = expected_images(job.seed, 0, job.rows), job.images[: job.rows]
        likelihood = expected_likelihood(job.seed, 0, job.rows), job.log_likelihood[: job.rows]
        return all(one.tobytes() == other.tobytes() for one, other in (images, likelihood))


@pytest.mark.parametrize("machine", [Batches, Samples])
def test_whatever_happens(machine: type[Promises[Any]]) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)
