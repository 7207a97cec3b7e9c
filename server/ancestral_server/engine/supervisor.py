"""Which seats of a lane have failed outside of a run, and when each is tried again."""

from __future__ import annotations

import math

from ancestral_server.backoff import SOUND_SECONDS, restart_delay


class Supervisor:
    """Of so many seats, by number. A seat that is down runs nothing until a probe succeeds. The lane's lock is held."""

    def __init__(self, seats: int) -> None:
        self._seats = seats
        # How often each has failed in succession, when it last did, and when the one that is down is tried again.
        self._failures: dict[int, int] = {}
        self._failed_at: dict[int, float] = {}
        self._probe_at: dict[int, float] = {}

    @property
    def healthy(self) -> bool:
        """Whether any seat is up."""
        return len(self._probe_at) < self._seats

    def failed(self, seat: int, now: float) -> int:
        """It is down from now on; how often it has failed in succession."""
        again = now - self._failed_at.get(seat, -math.inf) < SOUND_SECONDS
        self._failures[seat] = failures = self._failures.get(seat, 0) + 1 if again else 1
        self._failed_at[seat] = now
        self._probe_at[seat] = now + restart_delay(failures)
        return failures

    def pause(self, seat: int, now: float) -> float | None:
        """Seconds until a seat that is down is probed; None if it is up."""
        if seat not in self._probe_at:
            return None
        return max(0.0, self._probe_at[seat] - now)

    def up(self, seat: int) -> None:
        """A probe has succeeded."""
        self._probe_at.pop(seat, None)
