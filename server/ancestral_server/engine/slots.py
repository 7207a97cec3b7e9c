"""The samples that are being painted: one slot each, packed at the front of arrays of fixed size.

A row may be painted by somebody else, a GPU, while the slots are looked after: then those who take the places of its
last samples wait behind them, and all move up between two rows.

Letters: S slots, B samples of a row, F samples that it has finished, H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ancestral.bundle.noise import uniforms_of
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import RasterJob
from ancestral_server.runtime.program import Meaning, RasterProgram
from ancestral_server.runtime.session import Array


@dataclass(slots=True, eq=False)
class PaintedRow:
    """A row of B samples that was begun and, once it has ended, what it gave: nothing of it changes afterwards."""

    # [B]: whose samples, as objects; which of their job's; which row of their image.
    jobs: Array
    index: Array
    rows: Array
    # The jobs of these rows, each once; and the jobs among them of which one is the first row.
    holders: Sequence[RasterJob]
    begun: Sequence[RasterJob]
    # Seconds of the clock of whoever has begun it.
    began: float
    # [B,W,C], and the F that are finished now: where among the B, images [F,H,W,C] and log-likelihoods [F].
    pixels: Array = field(default_factory=lambda: np.empty(0, np.uint8))
    finished: Array = field(default_factory=lambda: np.empty(0, np.int64))
    images: Array = field(default_factory=lambda: np.empty(0, np.uint8))
    log_likelihood: Array = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.jobs)


class Slots:
    """Slots 0 to `used` - 1 are in use. Each is at a row of its own: a sample's states are zeros where it has no rows
    yet, so samples at different rows share a run without masks.
    """

    def __init__(self, program: RasterProgram, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        # The row that is being painted, of the first of the slots.
        self.painting: PaintedRow | None = None
        self.overlaps = program.overlaps
        room = 2 * capacity if program.overlaps else capacity
        shape = program.image_shape
        self._program = program
        self._canvas = program.painting(room)
        self.jobs: Array = np.full(room, None, object)
        # Of each slot, which sample of its job it paints, and the next row of that.
        self.index = np.zeros(room, np.int64)
        self.row = np.zeros(room, np.int64)
        self._images = np.zeros((room, *shape), np.uint8)
        # The same by rows [S H, W, C], and where a slot's begin: numpy is quicker at whole rows than by two axes.
        self._image_rows = self._images.reshape(room * shape[0], *shape[1:])
        self._top = np.arange(room) * shape[0]
        self._log_likelihood = np.zeros(room, np.float32)
        # Finished, or nobody waits for it: its slot is freed between two rows. And: its noise was not yet drawn.
        self._over = np.zeros(room, np.bool_)
        self._fresh = np.zeros(room, np.bool_)
        self._arrays = (
            self.jobs,
            self.index,
            self.row,
            self._images,
            self._log_likelihood,
            self._over,
            self._fresh,
        )
        # How many slots each job has; and those that have none of their rows yet.
        self.holders: dict[RasterJob, int] = {}
        self._beginners: list[RasterJob] = []

    # ---- while a row is painted, or between two

    @property
    def staying(self) -> int:
        """How many slots will be in use in the next row, if nobody comes."""
        ending = self._over[: self.used]
        if self.painting is not None:
            ending = ending.copy()
            ending[: len(self.painting)] |= self.painting.rows == self._program.image_shape[0] - 1
        return self.used - int(np.count_nonzero(ending))

    @property
    def places(self) -> int:
        """How many samples can be placed: none where runs have failed while a row was painted, and those who left since
        then are still in their slots, as their successors are.
        """
        return len(self.jobs) - self.used

    def place(self, job: RasterJob, first: int, count: int) -> None:
        """Begin samples `first` to `first + count - 1` of a job, in the next slots."""
        new = slice(self.used, self.used + count)
        self.jobs[new] = job
        self.index[new] = np.arange(first, first + count)
        self.row[new] = 0
        self._log_likelihood[new] = 0
        self._over[new] = False
        self._fresh[new] = True
        if first == 0:
            self._beginners.append(job)
        self.holders[job] = self.holders.get(job, 0) + count
        self.used += count

    def leave(self, jobs: Collection[RasterJob]) -> None:
        """Nobody waits for the samples of these jobs."""
        for slot, job in enumerate(self.jobs[: self.used]):
            if job in jobs:
                self._over[slot] = True

    def draw(self) -> None:
        """Draw the noise of the samples that have begun, and hand them over to be painted; not of those that nobody
        waits for any more.
        """
        fresh = np.flatnonzero(self._fresh[: self.used] & ~self._over[: self.used])
        if not fresh.size:
            return
        jobs: list[RasterJob] = self.jobs[fresh].tolist()
        index = self.index[fresh].tolist()
        shape = self._program.image_shape
        streams = [(job.seed, job.stream(i)) for job, i in zip(jobs, index, strict=True)]
        inputs: dict[Meaning, Array] = {
            bundle_pb2.MEANING_UNIFORMS: uniforms_of(streams, shape),
            bundle_pb2.MEANING_TEMPERATURE: np.array([job.temperature for job in jobs], np.float32),
        }
        if bundle_pb2.MEANING_LABEL in self._program.inputs:
            inputs[bundle_pb2.MEANING_LABEL] = np.array([job.label for job in jobs], np.int64)
        if any(job.completion is not None for job in self.holders):
            given = inputs[bundle_pb2.MEANING_GIVEN] = np.zeros((len(jobs), *shape), np.uint8)
            known = inputs[bundle_pb2.MEANING_KNOWN] = np.zeros((len(jobs), *shape), np.bool_)
            for place, (job, i) in enumerate(zip(jobs, index, strict=True)):
                if job.completion is not None:
                    given[place], known[place] = job.completion.of(i)
        self._canvas.place(fresh, inputs)
        self._fresh[fresh] = False

    # ---- between two rows

    def free(self) -> None:
        """Free the slots that are over, moving the last ones into the gaps; where a row is painted, later."""
        gone = np.flatnonzero(self._over[: self.used])
        if self.painting is not None or not gone.size:
            return
        for job in self.jobs[gone]:
            left = self.holders[job] - 1
            if left:
                self.holders[job] = left
            else:
                del self.holders[job]
        used = self.used - len(gone)
        targets = gone[gone < used]
        sources = used + np.flatnonzero(~self._over[used : self.used])
        if targets.size:
            for array in self._arrays:
                array[targets] = array[sources]
        self._canvas.move(sources, targets, used)
        self.jobs[used : self.used] = None
        self._over[used : self.used] = False
        self._fresh[used : self.used] = False
        self.used = used

    def bring_forward(self, jobs: Collection[int]) -> int:
        """Put the samples of some jobs, given by identity, into the first slots; how many they are."""
        chosen = [slot for slot in range(self.used) if id(self.jobs[slot]) in jobs]
        order = [*chosen, *(slot for slot in range(self.used) if id(self.jobs[slot]) not in jobs)]
        self._canvas.reorder(order)
        for array in self._arrays:
            array[: self.used] = array[order]
        return len(chosen)

    def begin_row(self, sizes: Sequence[int], count: int, now: float) -> None:
        """Have one row of the first `count` slots painted, in runs of so many that together are B >= count. A run that
        fails leaves everything as it was.
        """
        rows = self.row[:count].copy()
        self._canvas.begin_row(rows, sizes)
        jobs = self.jobs[:count].copy()
        holders = list(self.holders) if count == self.used else list(dict.fromkeys(jobs))
        begun: list[RasterJob] = []
        if self._beginners:
            ours = set(holders)
            begun = [job for job in self._beginners if job in ours]
            self._beginners = [job for job in self._beginners if job not in ours and job in self.holders]
        self.painting = PaintedRow(jobs, self.index[:count].copy(), rows, holders, begun, now)

    def end_row(self) -> PaintedRow:
        """Wait for the row that was begun. What it has finished is over; the slots are freed by `free`."""
        row = self.painting
        assert row is not None, "a row was begun"
        row.pixels, likelihood = self._canvas.end_row()
        self.painting = None
        count = len(row)
        self._image_rows[self._top[:count] + row.rows] = row.pixels
        if likelihood is not None:
            self._log_likelihood[:count] += likelihood
        self.row[:count] += 1
        finished = row.finished = np.flatnonzero(self.row[:count] == self._program.image_shape[0])
        if finished.size:
            row.images, row.log_likelihood = self._images[finished], self._log_likelihood[finished]
            self._over[finished] = True
        return row
