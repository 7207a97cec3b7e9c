"""How long a batch waits for company."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ancestral_server.engine.batching import bucket, enough
from ancestral_server.engine.scheduler import Wait


@dataclass(slots=True)
class View:
    """What a policy sees of a lane that has something to run. Not frozen: one is made for each run, and would cost 7
    times as much.
    """

    # Queued requests, and their rows.
    queued: int
    rows: int
    now: float
    # When this batch began to wait, and when the last request came.
    since: float
    last_arrival: float
    # The sizes of a run, ascending, and the seconds that a run of a size takes.
    sizes: Sequence[int]
    seconds: Callable[[int], float]


class BatchPolicy(Protocol):
    @property
    def crowd(self) -> int:
        """Requests that were lately in flight together, as far as the policy learns it; else 1."""

    def wait(self, view: View) -> Wait | None:
        """How long the batch waits for more; None: it runs now."""

    def ran(self, together: int, sizes: Sequence[int], seconds: Callable[[int], float]) -> None:
        """A run has ended; so many requests, the waiting ones included, were in flight together."""


class Immediate:
    """Takes what is queued whenever the lane is free."""

    crowd = 1

    def wait(self, view: View) -> Wait | None:
        return None

    def ran(self, together: int, sizes: Sequence[int], seconds: Callable[[int], float]) -> None:
        """Learns nothing."""


@dataclass(frozen=True, slots=True)
class AdaptiveTuning:
    """Of `Adaptive`, without which 8 and 64 callers got 14 and 12 % fewer answers of Encode (`batch-wait` of `make
    ablation`). The single figures are of 0c8a8e0, b06a8d6 and ba62378, and were not varied.
    """

    # Seconds, the longest wait of all: `--batch-wait-ms`.
    longest: float = 0.02
    # A batch stops waiting when nobody came for as long as its run will take, since a longer pause costs more than
    # company can save; but within these shares of the longest wait: callers that were answered together come back one
    # by one, and a crowd that is long in coming does not come.
    shortest_pause_share: float = 0.05
    longest_pause_share: float = 0.4
    # Waiting for the very last caller of a crowd costs all the others.
    crowd_share: float = 0.9
    # Batches of which the largest tells how many callers there are: a crowd that has gone is waited for that often.
    memory: int = 16
    # Every so many batches one waits for whoever comes; one that finds nobody new makes the next rarer, down to this.
    probe_every: int = 8
    probe_seldom: int = 256


class Adaptive:
    """Waits for the calls that are being read, and for as many callers as were lately in flight together.

    Callers who come one by one, each as soon as the one before is answered, never meet in a queue and would be run
    one by one for ever. So now and then a batch waits longer than it should have to, to see who comes.

    coming: how many calls have reached the server and not yet a lane; see `Arrivals`.
    """

    def __init__(self, coming: Callable[[float], int], tuning: AdaptiveTuning = AdaptiveTuning()) -> None:
        self._coming = coming
        self._tuning = tuning
        self._seen = deque([1], maxlen=tuning.memory)
        self._crowd = 1
        self._probe_every = tuning.probe_every
        # The very first batch is a probe: a burst that meets a server just started is a crowd too.
        self._until_probe = 0
        # Rows for which a batch waits at most, by the measured costs.
        self._enough = math.inf

    @property
    def crowd(self) -> int:
        return self._crowd

    @property
    def probes(self) -> bool:
        """Whether the next batch waits for whoever comes."""
        return self._until_probe <= 0

    def wait(self, view: View) -> Wait | None:
        if view.rows >= min(self._enough, view.sizes[-1]):
            return None
        tuning, probes = self._tuning, self.probes
        wanted = math.inf if probes else tuning.crowd_share * self._crowd
        coming = self._coming(view.now)
        if not coming and view.queued >= wanted:
            return None
        run = view.seconds(bucket(min(self._crowd, view.sizes[-1]), view.sizes))
        longest = tuning.longest
        pause = min(tuning.longest_pause_share * longest, max(run, tuning.shortest_pause_share * longest))
        seconds = min(view.since + longest, view.last_arrival + pause) - view.now
        if seconds <= 0:
            return None
        most = min(self._enough, view.sizes[-1])
        complete = math.ceil(min(wanted, most))
        return Wait(seconds, complete if view.queued < complete else most)

    def ran(self, together: int, sizes: Sequence[int], seconds: Callable[[int], float]) -> None:
        tuning = self._tuning
        if self.probes:
            self._probe_every = (
                tuning.probe_every if together > self._crowd else min(2 * self._probe_every, tuning.probe_seldom)
            )
            self._until_probe = self._probe_every
        self._until_probe -= 1
        self._seen.append(together)
        self._crowd = max(self._seen)
        if self.probes:
            self._enough = enough(sizes, seconds)
