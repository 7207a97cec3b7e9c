"""How many callers there are, judged by the batches that they made: whom to wait for, and that a lone one is alone."""

from __future__ import annotations

import math
from collections import deque

# Batches that are remembered: a crowd that has gone is waited for that often.
MEMORY = 16
# Every so many batches one waits for whoever comes; one that finds nobody new makes the next one rarer, down to this.
PROBE_EVERY, PROBE_SELDOM = 8, 256


class Crowd:
    """Callers who come one by one, each as soon as the one before is answered, never meet in a queue and would be run
    one by one for ever. So now and then a batch waits longer than it should have to, to see who comes.
    """

    def __init__(self) -> None:
        self._sizes = deque([1], maxlen=MEMORY)
        # Requests that were lately in flight together.
        self.known = 1
        self._every = PROBE_EVERY
        # The very first batch is one: a burst that meets a server just started is a batch too.
        self._until_probe = 0

    @property
    def expected(self) -> float:
        """How many requests make the next batch complete; infinite for a probe."""
        return math.inf if self.probes else self.known

    @property
    def probes(self) -> bool:
        """Whether the next batch is a probe."""
        return self._until_probe <= 0

    @property
    def alone(self) -> bool:
        """Whether the next batch is expected to be of one request, and nobody is looked for."""
        return self.known == 1 and self._until_probe > 0

    def seen(self, together: int) -> None:
        """A batch was run while so many requests, itself included, were in flight."""
        if self._until_probe <= 0:
            self._every = PROBE_EVERY if together > self.known else min(2 * self._every, PROBE_SELDOM)
            self._until_probe = self._every
        self._until_probe -= 1
        self._sizes.append(together)
        self.known = max(self._sizes)
