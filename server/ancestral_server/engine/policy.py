"""Decisions as pure functions, tested with numbers: how large a run is, how long a batch waits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

# A batch stops waiting when nobody came for this share of the longest wait, although some of the crowd are missing, or
# for as long as its run will take: a longer pause costs more than company can save. But not before callers that were
# answered together, who come back one by one, could have come: that is the shorter share.
PAUSE_SHARE = 0.4
SHORTEST_PAUSE_SHARE = 0.05
# What a batch costs beside its run, about; and by how much a row may cost more than in the best batch.
TURN_SECONDS = 0.00005
ENOUGH_SHARE = 0.1
# A run leaves rows behind only to get so much more done in its time.
FILL_SHARE = 0.15
# What the front end needs for a call, about: to read it, and to answer it.
CALL_SECONDS = 0.00025
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
    return min(30.0, 0.1 * 2.0 ** min(failures - 1, 10))


def bucket(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `rows`; the largest where none does."""
    return sizes[min(bisect_left(sizes, rows), len(sizes) - 1)]


def fill(rows: int, most: int, sizes: Sequence[int], seconds: Callable[[int], float]) -> int:
    """How many of `rows` queued ones the next run takes, at most `most`: all, padded to the next size, or what fills
    the size before, where that gets more done in a second. Where cost grows with size, 34 rows would else cost 64.

    seconds: what a run of a size takes.
    """
    rows = min(rows, most)
    size = bucket(rows, sizes)
    if size <= rows:
        return rows
    full = max((smaller for smaller in sizes if smaller < rows), default=0)
    if not full:
        return rows
    padded_rate, full_rate = rows / (TURN_SECONDS + seconds(size)), full / (TURN_SECONDS + seconds(full))
    return full if full_rate > (1 + FILL_SHARE) * padded_rate else rows


def parts(rows: int, most: int, capacity: int, *, full: bool) -> list[int]:
    """The sizes of the runs, none of more than `most`, that together hold `rows` of a `capacity`; full: no run smaller
    than it may be, if the capacity is a multiple of `most`.
    """
    held = min(capacity, -(-rows // most) * most) if full else rows
    whole, rest = divmod(held, most)
    return [most] * whole + ([rest] if rest else [])


def enough(sizes: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The smallest size of batch beyond which company hardly makes a row cheaper: nobody need wait for more.

    seconds: what a run of a size takes.
    """

    def row_seconds(size: int) -> float:
        return (TURN_SECONDS + seconds(size)) / size

    cheapest = min(map(row_seconds, sizes))
    return next(size for size in sizes if row_seconds(size) <= (1 + ENOUGH_SHARE) * cheapest)


def company(crowd: int, seconds: Callable[[int], float]) -> int:
    """How many of a crowd a batch should wait for, where the front end and a run can work at the same time.

    All of them, which makes the largest batch but leaves the lane idle while they are answered and come back; or half,
    so that one half comes back while the other is run. seconds: what a run of so many takes.
    """
    half = -(-crowd // 2)
    whole_rate = crowd / (seconds(crowd) + crowd * CALL_SECONDS)
    half_rate = half / max(seconds(half), half * CALL_SECONDS)
    return half if half_rate > whole_rate else crowd


def batch_wait(
    *, queued: int, coming: int, crowd: float, waited: float, since_arrival: float, longest: float, run: float
) -> float:
    """Seconds that a batch may go on waiting for more; 0 to run now.

    queued: requests in the queue. coming: calls that reached the server and not yet a lane. crowd: requests that are
    expected; where all three say that there is one caller, it never waits. waited, since_arrival, longest:
    seconds since this batch began to wait, since the last arrival, and the bound on the former. run: seconds that a run
    of the crowd takes.
    """
    if not coming and queued >= CROWD_SHARE * crowd:
        return 0.0
    pause = min(PAUSE_SHARE * longest, max(run, SHORTEST_PAUSE_SHARE * longest))
    return max(0.0, min(longest - waited, pause - since_arrival))
