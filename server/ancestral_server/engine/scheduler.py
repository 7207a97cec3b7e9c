"""The contract between what decides (a scheduler) and what runs (a lane and its runner).

A scheduler knows no thread, no clock and no event loop: `now` is given to it, in seconds of a clock that only goes
forward, and whoever calls it holds the lane's lock. So every decision can be tested on a clock that the test moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ancestral_server.engine.job import Job
from ancestral_server.engine.queue import JobQueue
from ancestral_server.errors import DeadlineExceeded, ServerError

J = TypeVar("J", bound=Job)
S = TypeVar("S", bound="Step")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to run yet."""

    # When to ask again at the latest; None: only once something is submitted.
    seconds: float | None = None
    # Ask again before that if so many requests are queued.
    wake_at: float = 1


IDLE = Wait()


class Step(Protocol):
    """One run, decided upon. The lane's lock is not held while it runs."""

    # When it was decided upon, and when its inputs lay ready.
    began: float
    gathered: float

    @property
    def rows(self) -> int:
        """Rows of requests, without padding."""

    @property
    def requests(self) -> int:
        """How many requests these rows are of, where a run begins and ends their work; else 0."""

    def run(self, clock: Clock) -> None:
        """Gather the inputs and run the program; raises what the program raises."""


@dataclass(slots=True)
class Answers(Generic[J]):
    """What was decided about jobs and has not been told to their callers. A job is answered once."""

    finished: list[J] = field(default_factory=list)
    failed: list[tuple[J, ServerError]] = field(default_factory=list)
    # Jobs whose callers had left.
    cancelled: list[J] = field(default_factory=list)
    # Jobs with new events in their feeds.
    told: list[J] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.finished or self.failed or self.cancelled or self.told)

    def finish(self, job: J, now: float) -> None:
        if not job.answered:
            job.finished, job.answered = now, True
            self.finished.append(job)

    def fail(self, jobs: Iterable[J], error: ServerError) -> None:
        for job in jobs:
            if not job.answered:
                job.answered = True
                self.failed.append((job, error))

    def depart(self, jobs: Iterable[J], name: str) -> None:
        """Answer jobs whose callers have left or whose time is up. name: the lane's."""
        for job in jobs:
            if job.answered:
                continue
            if job.cancelled:
                job.answered = True
                self.cancelled.append(job)
            else:
                self.fail([job], DeadlineExceeded(f"the deadline passed before {name} had finished"))


class Scheduler(Protocol[J, S]):
    """Decides what a lane runs next. `seat` numbers the runs that may go on at the same time, from 0."""

    # Filled by every verb; the lane takes them out.
    answers: Answers[J]

    @property
    def queue(self) -> JobQueue[J]:
        """What waits for a run."""

    @property
    def waiting(self) -> int:
        """How many requests wait for a run that any seat may take: what is queued, and what is to be run again."""

    @property
    def seats(self) -> int:
        """How many runs may go on at the same time."""

    def submit(self, job: J, now: float) -> None:
        """Queue a job; Infeasible or Overloaded if it has no chance or is too much."""

    def next(self, now: float, seat: int) -> S | Wait:
        """The next run of a seat. Jobs that expired or were cancelled are answered here, and not run."""

    def pending(self, seat: int) -> bool:
        """Whether a seat should be asked again at once."""

    def finish(self, step: S, now: float, seat: int) -> None:
        """A step has run: learn from it, hand its rows out, answer who has all of theirs."""

    def fail(self, step: S, error: Exception, now: float, seat: int) -> None:
        """A step has failed: have its rows run again in parts, or answer who alone is to blame. Called where `error` is
        handled.
        """

    def abandon(self, error: ServerError, seat: int | None = None) -> None:
        """Answer with an error everybody whose rows a seat has in hand; without a seat everybody."""
