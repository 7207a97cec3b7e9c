"""What one run of a one-shot program is made of: rows of several jobs, stacked and dealt out again.

Letters: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ancestral_server.engine.job import OneShotJob
from ancestral_server.runtime.program import Meaning, OneShotProgram
from ancestral_server.runtime.session import Array


@dataclass(slots=True)
class Piece:
    """Rows `start` to `stop` of a job in one batch."""

    job: OneShotJob
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class Hand:
    """What a worker has taken of the queue and not answered."""

    # Of its run.
    pieces: list[Piece] = field(default_factory=list)
    # What is left of a batch that did not fit into memory.
    postponed: list[Piece] = field(default_factory=list)
    # The parts of a batch whose run failed, each to be run by itself.
    suspects: list[list[Piece]] = field(default_factory=list)
    # Whether it is run on one thread.
    alone: bool = False
    # When the run that is going on should end, time.monotonic() seconds; 0 between runs.
    busy_until: float = 0.0

    @property
    def jobs(self) -> Iterable[OneShotJob]:
        pieces = chain(self.pieces, self.postponed, *self.suspects)
        return {id(piece.job): piece.job for piece in pieces}.values()

    def drop(self) -> Iterable[OneShotJob]:
        """Forget the pieces of the run; whose they were."""
        jobs = {id(piece.job): piece.job for piece in self.pieces}
        self.pieces, self.busy_until = [], 0.0
        return jobs.values()


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
    workers may have rows of one job.
    """
    finished, at = [], 0
    for piece in pieces:
        job, stop = piece.job, at + piece.rows
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
