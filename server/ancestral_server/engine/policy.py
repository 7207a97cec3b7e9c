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


def queue_limit(*, floor: float, batch: float, own: float) -> float:
    """Seconds of work that may wait in a queue once a newcomer has joined it.

    A queue is there to keep the lane busy, which takes one full batch of `batch` seconds. What waits beyond that makes
    nothing faster: in an overload the queue stands at its limit, and everybody waits for all of it. floor: so much is
    harmless whatever the model costs. own: seconds of the newcomer itself; a large one may wait for as much again.
    """
    return max(floor, batch, 2 * own)


def restart_delay(failures: int) -> float:
    """Seconds until a lane that has failed so many times in succession is tried again: 0.1, 0.2, ... 30 at most."""
    return min(30.0, 0.1 * 2.0 ** (failures - 1))


def bucket(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `rows`; the largest where none does."""
    return next((size for size in sizes if size >= rows), sizes[-1])


def parts(rows: int, most: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of the runs, none of more than `most`, that together hold `rows`, at most the largest size."""
    whole, rest = divmod(rows, most)
    return [most] * whole + ([min(bucket(rest, sizes), sizes[-1] - whole * most)] if rest else [])


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
