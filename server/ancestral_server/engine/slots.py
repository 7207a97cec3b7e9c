"""The samples that are being painted: one slot each, packed at the front of arrays of fixed capacity.

Letters: S slots, B rows of a run (slots in use, padded where runs have one size), H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ancestral.bundle.noise import uniforms
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.batching import check_rows
from ancestral_server.engine.job import RasterJob
from ancestral_server.runtime.history import History
from ancestral_server.runtime.program import Meaning, RasterProgram
from ancestral_server.runtime.session import Array


class Slots:
    """Slots 0 to `used` - 1 are in use. Each is at a row of its own: a sample's states are zeros where it has no rows
    yet, so samples at different rows share a run without masks.
    """

    def __init__(self, program: RasterProgram, capacity: int) -> None:
        self._program = program
        shape = program.image_shape
        self.capacity = capacity
        self.used = 0
        self.jobs: list[RasterJob | None] = [None] * capacity
        # Which sample of its job.
        self.index = np.zeros(capacity, np.int64)
        # The next row to paint.
        self.row = np.zeros(capacity, np.int64)
        self.images = np.zeros((capacity, *shape), np.uint8)
        self.log_likelihood = np.zeros(capacity, np.float32)
        self._inputs = {meaning: program.blank(meaning, capacity) for meaning in program.inputs}
        # By-row inputs are kept whole, [S,H,W,C].
        for meaning in (bundle_pb2.MEANING_GIVEN, bundle_pb2.MEANING_KNOWN, bundle_pb2.MEANING_UNIFORMS):
            self._inputs[meaning] = np.zeros((capacity, *shape), self._inputs[meaning].dtype)
        self._history = History(program)

    def place(self, job: RasterJob, index: int) -> None:
        """Begin sample `index` of a job in the next free slot."""
        slot = self.used
        self.jobs[slot] = job
        self.index[slot] = index
        self.row[slot] = 0
        self.log_likelihood[slot] = 0
        shape = self._program.image_shape
        inputs = self._inputs
        inputs[bundle_pb2.MEANING_UNIFORMS][slot] = uniforms(job.seed, job.stream(index), shape)
        inputs[bundle_pb2.MEANING_TEMPERATURE][slot] = job.temperature
        if bundle_pb2.MEANING_LABEL in inputs:
            inputs[bundle_pb2.MEANING_LABEL][slot] = job.label
        if job.completion is None:
            inputs[bundle_pb2.MEANING_KNOWN][slot] = False
        else:
            inputs[bundle_pb2.MEANING_GIVEN][slot], inputs[bundle_pb2.MEANING_KNOWN][slot] = job.completion.of(index)
        self._history.clear(slot)
        self.used = slot + 1

    def drop(self, slots: list[int]) -> None:
        """Empty slots, moving the last ones into the gaps."""
        for slot in sorted(slots, reverse=True):
            last = self.used - 1
            if slot != last:
                self._move(last, slot)
            self.jobs[last] = None
            self.used = last

    def _move(self, source: int, target: int) -> None:
        self.jobs[target] = self.jobs[source]
        arrays: list[Array] = [self.index, self.row, self.images, self.log_likelihood]
        for array in (*arrays, *self._inputs.values()):
            array[target] = array[source]
        self._history.move(source, target)

    def bring_forward(self, jobs: Collection[int]) -> int:
        """Put the samples of some jobs, given by identity, into the first slots; how many they are."""
        chosen = [slot for slot in range(self.used) if id(self.jobs[slot]) in jobs]
        order = [*chosen, *(slot for slot in range(self.used) if id(self.jobs[slot]) not in jobs)]
        self._history.reorder(order)
        self.jobs[: self.used] = [self.jobs[slot] for slot in order]
        arrays: list[Array] = [self.index, self.row, self.images, self.log_likelihood]
        for array in (*arrays, *self._inputs.values()):
            array[: self.used] = array[order]
        return len(chosen)

    def paint_row(self, sizes: Sequence[int], count: int) -> list[int]:
        """Run one row of the first `count` slots, in runs of so many that together are B >= count; which of these slots
        are finished now.

        Afterwards their `row` is one more than the row that was painted. A run that fails leaves everything as it was.
        """
        size = sum(sizes)
        # What a run holds beyond these is the first of them again: nothing of other requests can make it fail.
        chosen = np.arange(size)
        chosen[count:] = 0
        every = chosen if size > count else slice(size)
        row = self.row[chosen]
        inputs: dict[Meaning, Array] = {
            meaning: array[chosen, row] if array.ndim == self.images.ndim else array[every]
            for meaning, array in self._inputs.items()
        }
        painted, likelihood, states = self._run(inputs, [s[every] for s in self._history.oldest(self.used)], sizes)
        self._history.add(states, count, self.used)
        self.images[np.arange(count), row[:count]] = painted[:count]
        if likelihood is not None:
            self.log_likelihood[:count] += likelihood[:count]
        self.row[:count] += 1
        return [int(slot) for slot in np.flatnonzero(self.row[:count] == self._program.image_shape[0])]

    def _run(
        self, inputs: dict[Meaning, Array], states: list[Array], sizes: Sequence[int]
    ) -> tuple[Array, Array | None, list[Array]]:
        """What `RasterProgram.run_row` gives for all these rows, in one run or joined from several."""
        if len(sizes) == 1:
            row, likelihood, after = self._program.run_row(inputs, states)
            check_rows([row, *([] if likelihood is None else [likelihood]), *after], sizes[0])
            return row, likelihood, after
        rows, likelihoods, joined = [], [], []
        stop = 0
        for size in sizes:
            start, stop = stop, stop + size
            part = {meaning: array[start:stop] for meaning, array in inputs.items()}
            row, likelihood, after = self._run(part, [state[start:stop] for state in states], [size])
            rows.append(row)
            likelihoods.append(likelihood)
            joined.append(after)
        found = [likelihood for likelihood in likelihoods if likelihood is not None]
        return (
            np.concatenate(rows),
            np.concatenate(found) if found else None,
            [np.concatenate(parts) for parts in zip(*joined, strict=True)],
        )
