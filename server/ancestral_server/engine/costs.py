"""What a run costs, by its size, as measured on this machine: who cannot be served in time is told so early."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostTuning:
    """How measurements are averaged. Neither figure was ever ablated."""

    # Share of the newest run in the running mean: a few slow runs on a busy machine must not turn callers away.
    weight: float = 0.1
    # Seconds for which a measurement counts as recent. What was measured since then is true, whatever it refuses.
    fresh_seconds: float = 1.0


class CostModel:
    """Seconds of a run by its size: running means, measured at load and by every run. The lane's lock is held."""

    def __init__(self, tuning: CostTuning = CostTuning()) -> None:
        self._tuning = tuning
        self._seconds: dict[int, float] = {}
        # When each was last measured or doubted.
        self._looked_at: dict[int, float] = {}

    def learn(self, size: int, seconds: float, now: float) -> None:
        known = self._seconds.get(size, seconds)
        self._looked_at[size] = now
        self._seconds[size] = known + self._tuning.weight * (seconds - known)

    def decay(self, now: float, size: int | None = None, *, idle: bool = False) -> None:
        """Trust the estimates that are not recent a little less; of an idle lane all. size: only that one.

        What is refused or avoided because of an estimate is never run and so measures nothing: one slow phase would
        else turn callers away for ever.
        """
        for known in [size] if size is not None else list(self._seconds):
            if known in self._seconds and (idle or now - self._looked_at[known] > self._tuning.fresh_seconds):
                self._looked_at[known] = now
                self._seconds[known] *= 1 - self._tuning.weight

    def copy(self) -> CostModel:
        """The same knowledge, to be learned apart from now on."""
        other = CostModel(self._tuning)
        other._seconds, other._looked_at = dict(self._seconds), dict(self._looked_at)
        return other

    def seconds(self, size: int) -> float:
        """Of a run of that size; of the nearest smaller size that was measured where that one was not, else 0.

        So an estimate is low rather than high: who is refused could not have been served.
        """
        if size in self._seconds:
            return self._seconds[size]
        smaller = [known for known in self._seconds if known < size]
        return self._seconds[max(smaller)] if smaller else 0.0
