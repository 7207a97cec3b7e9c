"""What counts values by size, and remembers which traced call had the last one of a size."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

# Constant relative error from a sub-millisecond encode to a sampling of many seconds: 15 µs × 1.5^n up to about 14.6 s
# (the choice of text-embeddings-inference), then on to 4 minutes for large sampling calls.
SECONDS_BUCKETS = tuple(1e-5 * 1.5**n for n in range(1, 43))


class Exemplar(NamedTuple):
    """A value, the trace that it comes from, and when that was, in seconds of the epoch."""

    value: float
    trace_id: str
    when: float


class LockFreeHistogram:
    """A histogram with one writer at a time: a search and two additions, where the library's own instrument takes a
    lock for each of its values. A scrape may see a value that is half counted.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        # The last of each bucket, by its number.
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def show(self, value: float, trace_id: str, when: float) -> None:
        """Show which trace a value that was observed is of; by one thread at a time, which need not be the writer."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(value, trace_id, when)
