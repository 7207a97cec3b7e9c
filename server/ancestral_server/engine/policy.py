"""Decisions as pure functions, tested with numbers: how large a run is, how long a batch waits."""

from __future__ import annotations

from collections.abc import Sequence

# Shares of the longest wait. A batch stops waiting when nobody came for this long, although some of the crowd are
# missing ...
PAUSE_SHARE = 0.4
# ... or, once the crowd is there, for this long: it may have grown.
LAST_CALL_SHARE = 0.08
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


def sample_share(*, waiting: int, running: int, workers: int) -> int:
    """How many samples each worker of a raster lane should hold, so that all work alike."""
    return -(-(waiting + running) // workers)


def reserve(slots: int) -> int:
    """How many of a worker's slots are for requests that hold none yet, so that these need not wait until an image of a
    large request is finished.
    """
    return -(-slots // 8) if slots > 1 else 0


def sampling_seconds(*, images: int, rows: int, share: int, row_seconds: float) -> float:
    """Seconds to paint so many images of so many rows in `share` slots that are refilled at once."""
    return max(1.0, images / max(1, share)) * rows * row_seconds


def bucket(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `rows`; the largest where none does."""
    return next((size for size in sizes if size >= rows), sizes[-1])


def batch_wait(*, queued: int, coming: int, crowd: int, waited: float, since_arrival: float, longest: float) -> float:
    """Seconds that a batch may go on waiting for more; 0 to run now.

    queued: requests in the queue. coming: calls that reached the server and not yet a lane. crowd: requests that were
    lately seen together; where all three say that there is one caller, it never waits. waited, since_arrival, longest:
    seconds since this batch began to wait, since the last arrival, and the bound on the former.
    """
    if max(queued, crowd) <= 1 and not coming:
        return 0.0
    share = LAST_CALL_SHARE if queued >= CROWD_SHARE * crowd and not coming else PAUSE_SHARE
    return max(0.0, min(longest - waited, share * longest - since_arrival))
