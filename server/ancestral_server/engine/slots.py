"""The samples that are being painted: one slot each, packed at the front of arrays of fixed capacity.

Letters: S slots, B rows of a run (slots in use, padded to a bucket), H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import RasterJob
from ancestral_server.runtime.noise import uniforms
from ancestral_server.runtime.program import Meaning, RasterProgram
from ancestral_server.runtime.session import Array


class Slots:
    """Slots 0 to `used` - 1 are in use. Each is at a row of its own: a fresh sample's states are zeros, so samples at
    different rows share a run without masks.
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
        self._states = program.fresh_states(0)

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
        for state in self._states:
            if slot < len(state):
                state[slot] = 0
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
        for array in (*arrays, *self._inputs.values(), *self._states):
            array[target] = array[source]

    def paint_row(self, sizes: Sequence[int]) -> list[int]:
        """Run one row of every slot, in runs of so many that together are B >= `used`; the slots that are finished now.

        Afterwards `row` is one more than the row that was painted. A run that fails leaves everything as it was.
        """
        size = sum(sizes)
        self._resize_states(size)
        self.row[self.used : size] = 0
        every = np.arange(size)
        row = self.row[:size]
        inputs: dict[Meaning, Array] = {
            meaning: array[every, row] if array.ndim == self.images.ndim else array[:size]
            for meaning, array in self._inputs.items()
        }
        painted, likelihood, self._states = self._run(inputs, self._states, sizes)
        used, row = self.used, row[: self.used]
        self.images[np.arange(used), row] = painted[:used]
        if likelihood is not None:
            self.log_likelihood[:used] += likelihood[:used]
        row += 1
        return [int(slot) for slot in np.flatnonzero(row == self._program.image_shape[0])]

    def try_row(self, chosen: Sequence[int], sizes: Sequence[int]) -> None:
        """Run the next row of some slots by themselves, in runs of so many that together are B >= their number, and
        change nothing: whatever the program raises says that it is one of them that it cannot paint.
        """
        slots = np.resize(np.array(chosen), sum(sizes))
        row = self.row[slots]
        inputs: dict[Meaning, Array] = {
            meaning: array[slots, row] if array.ndim == self.images.ndim else array[slots]
            for meaning, array in self._inputs.items()
        }
        self._run(inputs, [state[slots] for state in self._states], sizes)

    def _run(
        self, inputs: dict[Meaning, Array], states: Sequence[Array], sizes: Sequence[int]
    ) -> tuple[Array, Array | None, list[Array]]:
        """What `RasterProgram.run_row` gives for these rows, in one run or joined from several."""
        if len(sizes) == 1:
            return self._program.run_row(inputs, states)
        rows, likelihoods, afters = [], [], []
        stop = 0
        for size in sizes:
            start, stop = stop, stop + size
            part = {meaning: array[start:stop] for meaning, array in inputs.items()}
            row, likelihood, after = self._program.run_row(part, [state[start:stop] for state in states])
            rows.append(row)
            likelihoods.append(likelihood)
            afters.append(after)
        found = [likelihood for likelihood in likelihoods if likelihood is not None]
        return (
            np.concatenate(rows),
            np.concatenate(found) if found else None,
            [np.concatenate(parts) for parts in zip(*afters, strict=True)],
        )

    def _resize_states(self, size: int) -> None:
        for i, state in enumerate(self._states):
            if len(state) > size:
                self._states[i] = state[:size]
            elif len(state) < size:
                self._states[i] = np.concatenate([state, np.zeros((size - len(state), *state.shape[1:]), state.dtype)])
