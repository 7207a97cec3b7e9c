"""What may wait in a lane, and when a newcomer is too much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ancestral_server.engine.job import Job, Priority
from ancestral_server.engine.queue import JobQueue
from ancestral_server.errors import Infeasible, Overloaded

J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of each priority's queue. An empty one takes any job, however large."""

    images: int = 20_000
    calls: int = 1_000
    # Seconds of work, of interactive jobs only: a batch job is there to wait. See `queue_limit`.
    seconds: float = 0.05


class Pace(Protocol):
    """What a scheduler knows of its own speed; all seconds are 0 before anything was measured."""

    def needed_seconds(self, rows: int, ahead: int, now: float) -> float:
        """The least seconds until a job of so many rows could be answered, with so many rows ahead of it."""

    def queue_seconds(self, rows: int) -> float:
        """Seconds of work that so many waiting rows are, in full batches."""

    @property
    def batch_seconds(self) -> float:
        """Seconds of work that have to wait for the lane to be kept busy."""

    @property
    def row_seconds(self) -> float:
        """Seconds of work that one row is in a full batch."""


def check_deadline(name: str, job: Job, ahead: int, pace: Pace, now: float) -> None:
    """Infeasible if the job cannot be ready in time. ahead: waiting rows that are worked off before its last one."""
    if math.isinf(job.deadline):
        return
    remaining, needed = job.deadline - now, pace.needed_seconds(job.rows, ahead, now)
    if remaining < needed:
        raise Infeasible(
            f"deadline: {max(remaining, 0):.3g} s remain, {name} needs at least {needed:.3g} s for "
            f"{job.rows} images, {ahead} queued ahead of them",
            name,
        )


def check_queue(name: str, queue: JobQueue[J], job: J, ahead: int, limits: Limits, pace: Pace) -> None:
    """Overloaded, with the delay after which it would fit, if the job is too much for the queue of its priority.

    ahead: waiting rows that will be worked off before the last of the job's.
    """
    calls, rows = len(queue.classes[job.priority]), queue.rows[job.priority]
    if not calls:
        return
    if calls >= limits.calls:
        problem = f"{calls} calls are queued, which is the limit (the server's --max-queued-calls)"
        excess = pace.queue_seconds(rows // calls)
    elif rows + job.rows > limits.images and (problem := _too_many_images(queue, job, limits)):
        excess = pace.queue_seconds(rows + job.rows - limits.images)
    elif job.priority is Priority.INTERACTIVE:
        work = pace.queue_seconds(ahead + job.rows)
        limit = queue_limit(floor=limits.seconds, batch=pace.batch_seconds, own=job.rows * pace.row_seconds)
        if work <= limit:
            return
        problem = (
            f"{ahead} images are queued, {job.rows} more make {work:.3g} s of work, above the limit of {limit:.3g} s "
            f"(the server's --max-queue-ms {1000 * limits.seconds:g}{_or_more(limit, limits.seconds)})"
        )
        excess = work - limit
    else:
        return
    # A millisecond at least: who comes back at once finds the same queue.
    raise Overloaded(name, problem, max(0.001, excess))


def _too_many_images(queue: JobQueue[J], job: J, limits: Limits) -> str:
    """What is wrong, if anything is. Draws do not count: they are made when they are run, and hold nothing before."""
    images, more = queue.images(job.priority), -(-job.rows // job.draws)
    if images + more <= limits.images:
        return ""
    return (
        f"{images} images are queued, {more} more would exceed the limit of {limits.images} images "
        "(the server's --max-queued-images)"
    )


def _or_more(limit: float, setting: float) -> str:
    """Why a limit in seconds is above its setting, if it is: see `queue_limit`."""
    return ", or what a full batch or twice this call takes" if limit > setting else ""


def queue_limit(*, floor: float, batch: float, own: float) -> float:
    """Seconds of work that may wait in a queue once a newcomer has joined it.

    A queue is there to keep the lane busy, which takes one full batch of `batch` seconds. What waits beyond that makes
    nothing faster: in an overload the queue stands at its limit, and everybody waits for all of it. floor: so much is
    harmless whatever the model costs. own: seconds of the newcomer itself; a large one may wait for as much again.
    """
    return max(floor, batch, 2 * own)
