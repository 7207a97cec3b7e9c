"""What a run costs, by batch size, as measured: to tell early who cannot be served in time."""

from __future__ import annotations

import time

# The weight of the newest run. A few slow runs on a busy machine must not turn callers away.
WEIGHT = 0.1
# What was measured since then is true, whatever is refused by it.
FRESH_SECONDS = 1.0


class Costs:
    """Seconds of a run by its size, running means. Each step is one operation on a dictionary, so no lock is needed."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        # When that was last measured or doubted, time.monotonic() seconds.
        self._measured: dict[int, float] = {}

    def learn(self, size: int, seconds: float) -> None:
        known = self._seconds.get(size, seconds)
        # In this order: every size that has a cost has a time.
        self._measured[size] = time.monotonic()
        self._seconds[size] = known + WEIGHT * (seconds - known)

    def relent(self, *, idle: bool) -> None:
        """Trust the estimates a little less, as after each refusal: what is refused is never run and measures nothing,
        so that one slow phase would else turn callers away for ever.

        Of a lane that is not idle only those that nothing has measured lately: an overload refuses thousands while its
        runs show what they cost.
        """
        now = time.monotonic()
        for size, known in list(self._seconds.items()):
            if idle or now - self._measured[size] > FRESH_SECONDS:
                self._seconds[size] = known * (1 - WEIGHT)

    def doubt(self, size: int) -> None:
        """Trust the estimate of a size less, unless it is of late: so it is tried again, the later the worse it was."""
        now = time.monotonic()
        if size in self._seconds and now - self._measured[size] > FRESH_SECONDS:
            self._measured[size] = now
            self._seconds[size] *= 1 - WEIGHT

    def copy(self) -> Costs:
        """The same, to be learned apart from now on."""
        other = Costs()
        other._seconds, other._measured = dict(self._seconds), dict(self._measured)
        return other

    def seconds(self, size: int) -> float:
        """Of a run of that size; of the nearest smaller size that was measured where that one was not, else 0.

        So an estimate is low rather than high: who is refused could not have been served.
        """
        if size in self._seconds:
            return self._seconds[size]
        smaller = [known for known in list(self._seconds) if known < size]
        return self._seconds[max(smaller)] if smaller else 0.0
