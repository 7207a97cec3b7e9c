"""Which runs held rows of a job, for whoever tells of it when the job is gone: of a call that is traced."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# A job of thousands of images takes more runs; the first of them show how it goes.
MOST_RUNS = 32


class Run(NamedTuple):
    """A run: when it was decided upon, when its inputs lay ready and when it had ended, time.monotonic() seconds; its
    rows without padding and with it, and how many requests these are of.
    """

    began: float
    gathered: float
    ended: float
    rows: int
    size: int
    requests: int
    # The owners of those of them that are watched.
    company: Sequence[Hashable]


@dataclass(slots=True, eq=False)
class Watch:
    """Holds nothing of the job. owner: tells the others in a run whose rows these are; must not hold the watch."""

    owner: Hashable
    runs: list[Run] = field(default_factory=list)

    def ran(self, run: Run) -> None:
        """A run has ended, well or not. The lane's lock is held."""
        if len(self.runs) < MOST_RUNS:
            self.runs.append(run)
