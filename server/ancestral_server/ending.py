"""How the time of the end is spent: all of it lies within `--drain-seconds`, whoever does not read, send or finish."""

from __future__ import annotations

from dataclasses import dataclass

# Of that time a tenth, and this much at least and at most, is kept for whoever still waits by then to be told so. It is
# a matter of milliseconds, except to callers on slow links. Where nobody waits it is not spent.
WORDS_SHARE = 0.1
LEAST_WORDS_SECONDS = 0.5
MOST_WORDS_SECONDS = 2.0
# How long after its time is over the process may still be there, whatever holds the event loop.
STUCK_SECONDS = 1.0


@dataclass(frozen=True)
class Ending:
    """Points in time, on the clock that `begin` was given: calls may run until the first, all is over at the second."""

    work_until: float
    over: float

    @staticmethod
    def begin(now: float, seconds: float) -> Ending:
        """The end that begins now and may take so long; a moment, where it may take no time at all."""
        words = min(MOST_WORDS_SECONDS, max(LEAST_WORDS_SECONDS, WORDS_SHARE * seconds))
        over = now + max(seconds, words)
        return Ending(max(now, over - words), over)

    def work_left(self, now: float) -> float:
        """Seconds that calls may still run."""
        return max(0.0, self.work_until - now)

    @property
    def words(self) -> float:
        """Seconds to tell whoever still waits when the calls' time is over."""
        return self.over - self.work_until
