"""Calls that have reached the server but not yet a lane: the exact reason for a batch to wait a moment longer."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

# Seconds. A call whose message has not been read by then was cancelled, or its sender is slow: nobody should wait for
# it. About ten times what reading a message takes on two busy cores. That batches wait for calls being read is worth 12
# and 8 % of Encode's answers at 8 and 64 in flight (`arrivals` of `make ablation`).
STALE_SECONDS = 0.005
# Calls that are remembered at most: several times what a server of one Python process holds between two turns of its
# event loop, so only a bound on memory.
MOST_CALLS = 4096


class Arrivals:
    """Written by the event loop; it and the lanes pop, each of which a deque does at once or not at all."""

    def __init__(self) -> None:
        self._begun: deque[float] = deque(maxlen=MOST_CALLS)

    def begin(self, now: float) -> None:
        """A call's headers are here."""
        self._begun.append(now)

    def read(self) -> None:
        """A call's message is read; nothing but Python lies between it and its lane."""
        with suppress(IndexError):
            self._begun.popleft()

    def coming(self, now: float) -> int:
        """How many calls are between the two."""
        while self._begun:
            try:
                if now - self._begun[0] <= STALE_SECONDS:
                    return len(self._begun)
                self._begun.popleft()
            except IndexError:  # another was faster
                break
        return 0
