"""How large a run is and what it is made of: pure functions of numbers and rows.

Letters: B rows of a batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ancestral_server.engine.job import OneShotJob
from ancestral_server.runtime.program import Meaning, OneShotProgram
from ancestral_server.runtime.session import Array


@dataclass(frozen=True, slots=True)
class SizeTuning:
    """When rows are worth a larger run."""

    # A run leaves rows behind only to get so much more done in its time: the rest has to wait for a run of its own.
    # Measured in 3cca9a7 on two cores: 423 to 576 images/s where cost grows with the size. The encoder of the digits,
    # whose cost hardly does, shows nothing (`fill` of `make ablation`).
    fill_share: float = 0.15
    # By how much a row may cost more than in the best batch before it is worth waiting for company. Not ablated.
    enough_share: float = 0.1


SIZES = SizeTuning()


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
    if not full or not seconds(full):
        return rows
    # Rows in a second, of the full run and of the padded one.
    return full if full * seconds(size) > (1 + SIZES.fill_share) * rows * seconds(full) else rows


def enough(sizes: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The smallest size of batch beyond which company hardly makes a row cheaper: nobody need wait for more.

    seconds: what a run of a size takes; 0 where nothing was measured, and then it is the largest size.
    """
    by_row = [seconds(size) / size for size in sizes]
    most = (1 + SIZES.enough_share) * min(by_row)
    if not most:
        return sizes[-1]
    return next(size for size, cost in zip(sizes, by_row, strict=True) if cost <= most)


def share(rows: int, seats: int, least: int) -> int:
    """How many of `rows` each of so many runs at a time takes, so that all are busy; fewer than `least` pay nobody."""
    return max(least, -(-rows // seats))


def parts(rows: int, most: int, capacity: int, *, full: bool) -> list[int]:
    """The sizes of the runs, none of more than `most`, that together hold `rows` of a `capacity`; full: no run smaller
    than it may be, if the capacity is a multiple of `most`.
    """
    held = min(capacity, -(-rows // most) * most) if full else rows
    whole, rest = divmod(held, most)
    return [most] * whole + ([rest] if rest else [])


@dataclass(slots=True)
class Piece:
    """Rows `start` to `stop` of a job in one batch."""

    job: OneShotJob
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def jobs_of(pieces: Iterable[Piece]) -> list[OneShotJob]:
    """Whose pieces these are, each job once."""
    return list({id(piece.job): piece.job for piece in pieces}.values())


def wanted_of(pieces: Sequence[Piece]) -> Sequence[Meaning]:
    """The outputs that any of the jobs wants."""
    if len(pieces) == 1:
        return pieces[0].job.wanted
    return list({meaning: None for piece in pieces for meaning in piece.job.wanted})


def stack(program: OneShotProgram, pieces: Sequence[Piece], size: int) -> dict[Meaning, Array]:
    """The inputs of a run by meaning, [B, ...], padded to B = `size` rows; what no job brings is zeros."""
    stacked: dict[Meaning, Array] = {}
    for meaning in program.inputs:
        parts = [piece.job.input_rows(meaning, piece.start, piece.stop) for piece in pieces]
        if len(parts) == 1 and parts[0] is not None and len(parts[0]) == size:
            stacked[meaning] = parts[0]
            continue
        if all(part is None for part in parts):
            stacked[meaning] = program.zeros(meaning, size)
            continue
        array = program.blank(meaning, size)
        at = 0
        for piece, part in zip(pieces, parts, strict=True):
            stop = at + piece.rows
            if part is not None:
                array[at:stop] = part
            at = stop
        stacked[meaning] = array
    return stacked


def deal(pieces: Sequence[Piece], outputs: Mapping[Meaning, Array]) -> list[OneShotJob]:
    """Give every job its rows of the outputs; the jobs that have all of theirs now. The lane's lock is held: several
    runs at a time may have rows of one job.
    """
    finished, at = [], 0
    rows = sum([piece.rows for piece in pieces])
    for piece in pieces:
        job, stop = piece.job, at + piece.rows
        if job.batch_size < rows:
            job.batch_size = rows
        for meaning in job.wanted:
            job.pieces.setdefault(meaning, {})[piece.start] = outputs[meaning][at:stop]
        at = stop
        job.done += piece.rows
        if job.done == job.rows:
            finished.append(job)
    return finished


def cut(pieces: Sequence[Piece], room: int) -> tuple[list[Piece], list[Piece]]:
    """The first `room` rows of pieces, and the rest."""
    first: list[Piece] = []
    rest: list[Piece] = []
    for piece in pieces:
        middle = min(piece.stop, piece.start + room)
        if middle > piece.start:
            first.append(Piece(piece.job, piece.start, middle))
        if middle < piece.stop:
            rest.append(Piece(piece.job, middle, piece.stop))
        room -= middle - piece.start
    return first, rest


def halves(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of the first half of the requests, and those of the others; nothing if all are of one request."""
    jobs = jobs_of(pieces)
    if len(jobs) < 2:
        return []
    first = {id(job) for job in jobs[: len(jobs) // 2]}
    return [
        [piece for piece in pieces if id(piece.job) in first],
        [piece for piece in pieces if id(piece.job) not in first],
    ]
