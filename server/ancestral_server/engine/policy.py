"""Decisions as pure functions, tested with numbers: how large a run is, how long a batch waits."""

from __future__ import annotations

from collections.abc import Sequence

# A batch stops waiting when nobody came for this long: callers that answer each other's pace come closer together.
PAUSE_SECONDS = 0.001
# Waiting for the very last caller of a crowd costs all the others.
CROWD_SHARE = 0.9


def buckets(most: int) -> tuple[int, ...]:
    """The batch sizes that are run, ascending: powers of two up to and including `most`."""
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] != most:
        sizes.append(most)
    return tuple(sizes)


def bucket(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `rows`; the largest where none does."""
    return next((size for size in sizes if size >= rows), sizes[-1])


def batch_wait(*, queued: int, crowd: int, growing: bool, waited: float, since_arrival: float, longest: float) -> float:
    """Seconds that a batch may go on waiting for more; 0 to run now.

    queued: requests in the queue. crowd: requests that were lately in flight together; 1 means a lone caller, who never
    waits. growing: the crowd was larger than ever last time, so `crowd` is an underestimate and arrivals decide alone.
    waited, since_arrival, longest: seconds since this batch began to wait, since the last arrival, and the bound on the
    former.
    """
    if crowd <= 1 or waited >= longest or since_arrival >= PAUSE_SECONDS:
        return 0.0
    if queued >= CROWD_SHARE * crowd and not growing:
        return 0.0
    return min(longest - waited, PAUSE_SECONDS - since_arrival)
