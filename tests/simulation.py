"""Schedulers on a clock that the test moves: no thread, no event loop, no waiting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.batching import buckets
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.job import Job, OneShotJob, Priority, RasterJob
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.one_shot import BatchStep, OneShotScheduler
from ancestral_server.engine.policy import BatchPolicy, Immediate
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.scheduler import Scheduler, Wait
from ancestral_server.errors import ServerError
from ancestral_server.runtime.program import OneShotProgram, RasterProgram
from fakeprograms import IMAGE, MEAN, Doubler, Painter, expected_images, expected_likelihood

J = TypeVar("J", bound=Job)

# It only makes futures, which nobody waits for.
_LOOP = asyncio.new_event_loop()
_LOOP.close()

CANCELLED = "cancelled"


class Simulation(Generic[J]):
    """A scheduler, its time in seconds, and what it has decided about whom."""

    def __init__(self, scheduler: Scheduler[J, Any]) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        # None for a job that went well, else its error or CANCELLED; in the order of the answers.
        self.outcomes: list[tuple[J, ServerError | str | None]] = []

    def submit(self, job: J) -> J:
        job.submitted = self.now
        self.scheduler.submit(job, self.now)
        return job

    def begin(self, seat: int = 0) -> Any:
        """The next step of a seat, or a Wait."""
        step = self.scheduler.next(self.now, seat)
        self._collect()
        return step

    def end(self, step: Any, seat: int = 0, seconds: float = 0.0, error: Exception | None = None) -> None:
        """Run a step, which takes so long, or fail it."""
        try:
            if error is not None:
                raise error
            step.run(lambda: self.now)
        except Exception as failure:  # noqa: BLE001 - as a lane does
            self.now += seconds
            self.scheduler.fail(step, failure, self.now, seat)
        else:
            self.now += seconds
            self.scheduler.finish(step, self.now, seat)
        self._collect()

    def turn(self, seat: int = 0, seconds: float = 0.0) -> int:
        """One turn; the rows that were run, 0 if there was nothing to do yet."""
        step = self.begin(seat)
        if isinstance(step, Wait):
            return 0
        rows: int = step.rows
        self.end(step, seat, seconds)
        return rows

    def work(self, seconds: float = 0.0, most: int = 10_000) -> list[int]:
        """Turns of seat 0 until there is nothing to do; the rows of each run. A wait ends when its time is over."""
        runs = []
        for _ in range(most):
            step = self.begin()
            if not isinstance(step, Wait):
                runs.append(step.rows)
                self.end(step, seconds=seconds)
            elif step.seconds is None:
                return runs
            else:
                self.now += step.seconds
        raise AssertionError(f"no end after {most} turns")

    def abandon(self, error: ServerError, seat: int | None = None) -> None:
        self.scheduler.abandon(error, seat)
        self._collect()

    def outcome(self, job: J) -> ServerError | str | None:
        """Of a job, which has exactly one."""
        (found,) = [outcome for each, outcome in self.outcomes if each is job]
        return found

    def answered(self, job: J) -> bool:
        return any(each is job for each, _ in self.outcomes)

    def collect(self) -> None:
        """Take what was decided beside the verbs."""
        self._collect()

    def _collect(self) -> None:
        answers = self.scheduler.answers
        self.outcomes += [(job, None) for job in answers.finished]
        self.outcomes += answers.failed
        self.outcomes += [(job, CANCELLED) for job in answers.cancelled]
        self.scheduler.answers = type(answers)()


def images(*values: int, deadline: float = math.inf, priority: Priority = Priority.INTERACTIVE) -> OneShotJob:
    """A job for the doubler; deadline: on the simulated clock."""
    inputs = {IMAGE: np.array(values, np.uint8)[:, None]}
    return OneShotJob(
        len(values), _LOOP.create_future(), deadline, priority=priority, inputs=inputs, wanted=[MEAN], submitted=0.0
    )


def samples(
    count: int, seed: int = 1, deadline: float = math.inf, priority: Priority = Priority.INTERACTIVE
) -> RasterJob:
    """A job for the painter; deadline: on the simulated clock."""
    return RasterJob(count, _LOOP.create_future(), deadline, priority=priority, seed=seed, submitted=0.0)


def doubled(job: OneShotJob) -> list[float]:
    return [float(value) for value in job.output(MEAN)[:, 0]]


def taken(step: BatchStep) -> list[int]:
    """The images that a run holds."""
    found: list[int] = []
    for piece in step.pieces:
        images = piece.job.input_rows(IMAGE, piece.start, piece.stop)
        assert images is not None
        found += [int(image) for image in images[:, 0]]
    return found


def batches(
    program: Doubler,
    *,
    max_batch: int = 4,
    limits: Limits | None = None,
    policy: BatchPolicy | None = None,
    run_seconds: float | Sequence[float] = 0.0,
    seats: int = 1,
    longest: float = math.inf,
    fixed: bool = False,
) -> Simulation[OneShotJob]:
    """A scheduler of batches. run_seconds: what it knows of each of its sizes, 0 for nothing."""
    sizes = buckets(max_batch)
    seconds = [run_seconds] * len(sizes) if isinstance(run_seconds, int | float) else run_seconds
    return Simulation(
        OneShotScheduler(
            "toy",
            cast(OneShotProgram, program),
            sizes=sizes,
            limits=limits or Limits(),
            policy=policy or Immediate(),
            costs=known(dict(zip(sizes, seconds, strict=True))),
            memory=BatchSizeLimit(sizes),
            seats=seats,
            longest=longest,
            fixed=fixed,
        )
    )


def sampler(
    program: Painter | RasterProgram,
    *,
    slots: int = 4,
    limits: Limits | None = None,
    row_seconds: float = 0.0,
    seats: int = 1,
    fixed: bool = False,
) -> Simulation[RasterJob]:
    """A scheduler of rows. row_seconds: what it knows of each size, 0 for nothing."""
    return Simulation(
        RasterScheduler(
            "toy",
            cast(RasterProgram, program),
            slots=slots,
            limits=limits or Limits(),
            costs=known(dict.fromkeys(range(1, slots + 1), row_seconds)),
            memory=BatchSizeLimit(buckets(slots)),
            seats=seats,
            fixed=fixed,
        )
    )


def known(seconds: dict[int, float]) -> CostModel:
    """What runs take, by their size, as if measured at 0; what takes 0 was not measured."""
    costs = CostModel()
    for size, each in seconds.items():
        if each:
            costs.learn(size, each, 0.0)
    return costs


def used(lane: Simulation[RasterJob]) -> int:
    """How many slots of a sampler are in use."""
    assert isinstance(lane.scheduler, RasterScheduler)
    return lane.scheduler.used


def right(job: RasterJob) -> bool:
    """Whether a painter's job got its own samples; each began with fresh states, whatever stood in its slot before, and
    read its own rows of them.
    """
    images = expected_images(job.seed, job.first_index, job.rows)
    likelihood = expected_likelihood(job.seed, job.first_index, job.rows)
    same = np.array_equal(job.images[: job.rows], images), np.array_equal(job.log_likelihood[: job.rows], likelihood)
    return all(same)
