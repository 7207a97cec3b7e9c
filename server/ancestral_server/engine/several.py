"""A role on several devices: an endpoint made of one for each, all of which can do the same.

A job goes as a whole to the device that has least to do, and stays there. So a large call is not faster than on one
device; several calls, or the parts of a stream, are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ancestral_server.engine.endpoint import Endpoint, OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import Job, OneShotJob, RasterJob
from ancestral_server.engine.lane import Lane

J = TypeVar("J", bound=Job)
E = TypeVar("E", bound=OneShotEndpoint | RasterEndpoint)


@dataclass(eq=False)
class Device:
    """One of several: how many images it was given, by calls of all roles and models, and has not answered.

    tell: told how many more, or fewer.
    """

    tell: Callable[[float], None]
    images: int = 0

    def count(self, more: int) -> None:
        self.images += more
        self.tell(more)


class Balance(Generic[J, E]):
    """Gives jobs to one of several endpoints each, one on each device, and knows who has which; the event loop's."""

    def __init__(self, parts: Sequence[E], devices: Sequence[Device]) -> None:
        self.parts = parts
        self._devices = devices
        # Rows that each was given and has not answered.
        self.rows = [0] * len(parts)
        self._whose: dict[J, E] = {}

    def submit(self, job: J) -> None:
        """See `Lane.submit`: what the one that has least to do refuses is refused."""
        number = min(range(len(self.parts)), key=self._load)
        part: Any = self.parts[number]
        # A job that ends early has fewer rows by then.
        rows = job.rows
        part.submit(job)
        self._whose[job] = part
        self._count(number, rows)

        def done(future: object) -> None:
            del self._whose[job]
            self._count(number, -rows)

        job.future.add_done_callback(done)

    def whose(self, job: J) -> E | None:
        """Who was given a job; None once it is answered."""
        return self._whose.get(job)

    def _load(self, number: int) -> tuple[bool, int, int]:
        """How much one has to do. An image of another role or model may be a thousand times the work: so those only
        decide between equals.
        """
        return not self.parts[number].healthy, self.rows[number], self._devices[number].images

    def _count(self, number: int, rows: int) -> None:
        self.rows[number] += rows
        self._devices[number].count(rows)


@dataclass(frozen=True, eq=False)
class Several(Endpoint, Generic[J, E]):
    """A role on several devices. All parts have its one `stats`."""

    balance: Balance[J, E]

    @property
    def by_device(self) -> Sequence[Sequence[Lane[Any]]]:
        return [part.lanes for part in self.balance.parts]

    def submit(self, job: J) -> None:
        """See `Lane.submit`."""
        self.balance.submit(job)


class SeveralOneShots(Several[OneShotJob, OneShotEndpoint]):
    @property
    def rows_at_a_time(self) -> int:
        """How many rows of bulk are run at a time."""
        return sum(part.rows_at_a_time for part in self.balance.parts)


class SeveralRasters(Several[RasterJob, RasterEndpoint]):
    def begin_no_more(self, job: RasterJob) -> None:
        """See `RasterScheduler.begin_no_more`."""
        part = self.balance.whose(job)
        if part is not None:
            part.begin_no_more(job)


def one_shots(parts: Sequence[OneShotEndpoint], devices: Sequence[Device]) -> OneShotEndpoint | SeveralOneShots:
    """Those of a role, one on each device, as one."""
    return parts[0] if len(parts) == 1 else SeveralOneShots(parts[0].stats, Balance(parts, devices))


def rasters(parts: Sequence[RasterEndpoint], devices: Sequence[Device]) -> RasterEndpoint | SeveralRasters:
    """Those of a role, one on each device, as one."""
    return parts[0] if len(parts) == 1 else SeveralRasters(parts[0].stats, Balance(parts, devices))
