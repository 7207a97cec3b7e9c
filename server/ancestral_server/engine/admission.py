"""What may wait in a lane, and when a newcomer is too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ancestral_server.engine import policy
from ancestral_server.engine.job import Job, Priority
from ancestral_server.engine.queue import JobQueue
from ancestral_server.errors import Overloaded

J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of each priority's queue. An empty one takes any job, however large."""

    images: int = 20_000
    calls: int = 1_000
    # Seconds of work, of interactive jobs only: a batch job is there to wait. See policy.queue_limit.
    seconds: float = 0.05


def check_queue(
    name: str,
    queue: JobQueue[J],
    job: J,
    ahead: int,
    limits: Limits,
    seconds_of: Callable[[int], float],
    batch_seconds: float,
    row_seconds: float,
) -> None:
    """Overloaded, with the delay after which it would fit, if the job is too much for the queue of its priority.

    ahead: waiting rows that will be worked off before the last of the job's. seconds_of: work of so many rows.
    row_seconds: work of one row in a full batch.
    """
    calls, images = len(queue.classes[job.priority]), queue.rows[job.priority]
    if not calls:
        return
    if calls >= limits.calls:
        problem = f"{calls} calls are queued, which is the limit (the server's --max-queued-calls)"
        excess = seconds_of(images // calls)
    elif images + job.rows > limits.images:
        problem = (
            f"{images} images are queued, {job.rows} more would exceed the limit of {limits.images} images "
            "(the server's --max-queued-images)"
        )
        excess = seconds_of(images + job.rows - limits.images)
    elif job.priority is Priority.INTERACTIVE:
        work = seconds_of(ahead + job.rows)
        limit = policy.queue_limit(floor=limits.seconds, batch=batch_seconds, own=job.rows * row_seconds)
        if work <= limit:
            return
        problem = (
            f"{ahead} images are queued, {job.rows} more make {work:.3g} s of work, above the limit of {limit:.3g} s "
            f"(the server's --max-queue-ms {1000 * limits.seconds:g}{_or_more(limit, limits.seconds)})"
        )
        excess = work - limit
    else:
        return
    raise Overloaded(name, problem, max(0.001, excess))


def _or_more(limit: float, setting: float) -> str:
    """Why a limit in seconds is above its setting, if it is: see policy.queue_limit."""
    return ", or what a full batch or twice this call takes" if limit > setting else ""
