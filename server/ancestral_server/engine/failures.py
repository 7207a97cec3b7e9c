"""How often each worker of a lane has failed, and which of them are down."""

from __future__ import annotations

import math
import time

from ancestral_server.engine import policy

# A worker that has run for so long since it last failed is sound again.
SOUND_SECONDS = 60.0


class Failures:
    """Of so many workers, by number, and of helpers, whose numbers come after theirs."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._in_succession: dict[int, int] = {}
        self._last: dict[int, float] = {}
        self._down: set[int] = set()

    def add(self, worker: int) -> None:
        """It has failed, now."""
        now = time.monotonic()
        again = now - self._last.get(worker, -math.inf) < SOUND_SECONDS
        self._in_succession[worker] = self.of(worker) + 1 if again else 1
        self._last[worker] = now

    def of(self, worker: int) -> int:
        """How often it has failed in succession."""
        return self._in_succession.get(worker, 0)

    def delay(self, worker: int) -> float:
        """Seconds until it is tried again."""
        return policy.restart_delay(self.of(worker))

    def set_down(self, worker: int, down: bool) -> bool:
        """It waits to be tried again, or no more. Whether any worker is up; helpers do not count. The lane's lock is
        held.
        """
        (self._down.add if down else self._down.discard)(worker)
        return any(each not in self._down for each in range(self.workers))
