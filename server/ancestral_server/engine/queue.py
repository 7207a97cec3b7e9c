"""What waits in a lane: jobs in two classes, by priority. The lane's lock is held around every call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from ancestral_server.engine.job import Job, Priority

J = TypeVar("J", bound=Job)

# Batch jobs are passed over so often while interactive ones fill the lane; then it is their turn: an eighth of the
# lane is a promise of the README, enough for bulk to end some day and little enough for nobody else to notice.
PASSES = 7


class JobQueue(Generic[J]):
    """Interactive jobs first, each class in turn; batch jobs get what those leave, and one turn in eight at least."""

    def __init__(self) -> None:
        self.classes: tuple[deque[J], deque[J]] = (deque(), deque())
        # Waiting rows, of each class.
        self.rows = [0, 0]
        self._passed_over = 0

    def __len__(self) -> int:
        return len(self.classes[0]) + len(self.classes[1])

    def __iter__(self) -> Iterator[J]:
        for jobs in self.classes:
            yield from jobs

    def images(self, priority: Priority) -> int:
        """The images of a class of which rows wait: an image has a row for each of its draws."""
        return sum(-(-job.waiting // job.draws) for job in self.classes[priority])

    @property
    def total_rows(self) -> int:
        return self.rows[0] + self.rows[1]

    def add(self, job: J) -> None:
        self.classes[job.priority].append(job)
        self.rows[job.priority] += job.rows

    def order(self) -> tuple[deque[J], ...]:
        """The classes as they may take the next run or slot, whose turn it is first. Counts as a turn."""
        interactive, batch = self.classes
        if not batch:
            return (interactive,)
        self._passed_over += 1
        return (batch, interactive) if self._passed_over > PASSES else (interactive, batch)

    def take(self, job: J, rows: int) -> None:
        """Rows of a job go to work; what is left of it lines up again, behind the others of its class."""
        jobs = self.classes[job.priority]
        if jobs[0] is job:
            jobs.popleft()
        else:
            jobs.remove(job)
        job.taken += rows
        self.rows[job.priority] -= rows
        if job.waiting:
            jobs.append(job)
        if job.priority is Priority.BATCH:
            self._passed_over = 0

    def ahead(self, rows: int, priority: Priority, quantum: int) -> int:
        """The rows that will be worked off before the last of a newcomer's.

        Jobs take turns of `quantum` rows, so that of a larger job no more than its share is ahead.
        """
        share = max(rows, quantum)
        ahead = self.rows[priority]
        if ahead > share:
            ahead = sum(min(job.waiting, share) for job in self.classes[priority])
        return ahead if priority is Priority.INTERACTIVE else ahead + self.rows[Priority.INTERACTIVE]

    def remove(self, jobs: Iterable[J]) -> None:
        """Forget the waiting rows of jobs; of those that are not here nothing."""
        gone = {id(job) for job in jobs}
        self._keep([job for job in self if id(job) not in gone])

    def departed(self, now: float) -> list[J]:
        """Take out those whom nobody waits for any more, or whose time is up."""
        gone = [job for jobs in self.classes for job in jobs if job.departed(now)]
        if gone:
            self.remove(gone)
        return gone

    def clear(self) -> list[J]:
        """Take out all."""
        jobs = list(self)
        self._keep([])
        return jobs

    def _keep(self, jobs: list[J]) -> None:
        for priority in Priority:
            kept = [job for job in jobs if job.priority is priority]
            self.classes[priority].clear()
            self.classes[priority].extend(kept)
            # Counted anew: whatever a loop that failed halfway left behind is mended here.
            self.rows[priority] = sum(job.waiting for job in kept)
