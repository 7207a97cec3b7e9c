"""The raster program of a graph: onnxruntime paints a row, on the thread that asks for it.

Letters: N samples that begin, B samples of a row, H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ancestral.bundle import rules
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.runtime.history import History
from ancestral_server.runtime.program import (
    BY_ROW,
    Meaning,
    Painting,
    RasterProgram,
    check_graph,
    check_rows,
    check_tensor,
)
from ancestral_server.runtime.session import Array, Session


class OnnxRasterProgram(RasterProgram):
    """One run of a graph paints one image row [B,W,C] for all running samples; the caller keeps the states, see
    `History`.
    """

    form = "onnx"

    def __init__(self, role: bundle_pb2.Role, session: Session, manifest: bundle_pb2.Bundle) -> None:
        super().__init__(role, manifest)
        self._session = session
        check_graph(role, session)
        for state in role.states:
            for name, found in ((state.input, session.inputs), (state.output, session.outputs)):
                check_tensor(role, name, tensor_pb2.DATA_TYPE_FLOAT32, state.shape, found)
        # Of each state: how many rows down the image a run's output is the input.
        self.rows_back = [rules.rows_back(state) for state in role.states]
        self._names = [tensor.name for tensor in role.outputs] + [state.output for state in role.states]
        meanings = [tensor.meaning for tensor in role.outputs]
        self._row = meanings.index(bundle_pb2.MEANING_ROW)
        likelihood = bundle_pb2.MEANING_LOG_LIKELIHOOD
        self._log_likelihood = meanings.index(likelihood) if likelihood in meanings else None

    def painting(self, places: int) -> Painting:
        return OnnxPainting(self, places)

    def fresh_states(self, rows: int) -> list[Array]:
        """What the top row of samples reads of each state: zeros."""
        return [np.zeros((rows, *state.shape), np.float32) for state in self.role.states]

    def run_row(
        self, inputs: Mapping[Meaning, Array], states: Sequence[Array]
    ) -> tuple[Array, Array | None, list[Array]]:
        """Painted row [B,W,C] uint8, its log-likelihood [B] (None if the model has none), and of each state the row
        that is read `rows_back` rows further down.
        """
        feeds = {self.inputs[meaning].name: array for meaning, array in inputs.items()}
        feeds.update((state.input, array) for state, array in zip(self.role.states, states, strict=True))
        arrays = self._session.run(self._names, feeds)
        likelihood = None if self._log_likelihood is None else arrays[self._log_likelihood]
        return arrays[self._row], likelihood, arrays[len(self.role.outputs) :]


class OnnxPainting:
    """By onnxruntime, on the thread that begins a row: inputs and states are arrays of this process."""

    def __init__(self, program: OnnxRasterProgram, capacity: int) -> None:
        self._program = program
        self._inputs = {meaning: program.blank(meaning, capacity) for meaning in program.inputs}
        for meaning in BY_ROW:
            self._inputs[meaning] = np.zeros((capacity, *program.image_shape), self._inputs[meaning].dtype)
        self._history = History(program.fresh_states(0), program.rows_back)
        self._samples = 0
        self._painted: tuple[Array, Array | None] | None = None

    def place(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        for meaning, array in self._inputs.items():
            array[places] = inputs.get(meaning, 0)
        self._history.clear(places)
        self._samples = max(self._samples, int(places.max(initial=-1)) + 1)

    def move(self, sources: Array, targets: Array, left: int) -> None:
        for array in self._inputs.values():
            array[targets] = array[sources]
        self._history.move(sources, targets)
        self._samples = min(self._samples, left)

    def reorder(self, order: Sequence[int]) -> None:
        self._history.reorder(order)
        # One that was not placed yet may come before others that were.
        self._samples = max(self._samples, len(order))
        for array in self._inputs.values():
            array[: len(order)] = array[order]

    def begin_row(self, rows: Array, sizes: Sequence[int]) -> None:
        count, size = len(rows), sum(sizes)
        # What a run holds beyond the samples is the first of them again: nothing of others can make it fail.
        chosen = np.arange(size)
        chosen[count:] = 0
        every = chosen if size > count else slice(size)
        row = rows[chosen] if size > count else rows
        inputs: dict[Meaning, Array] = {
            meaning: array[chosen, row] if meaning in BY_ROW else array[every]
            for meaning, array in self._inputs.items()
        }
        states = [state[every] for state in self._history.oldest(self._samples)]
        painted, likelihood, states = self._run(inputs, states, sizes)
        self._history.add(states, count, self._samples)
        self._painted = painted[:count], None if likelihood is None else likelihood[:count]

    def end_row(self) -> tuple[Array, Array | None]:
        painted, self._painted = self._painted, None
        assert painted is not None, "a row was begun"
        return painted

    def _run(
        self, inputs: dict[Meaning, Array], states: list[Array], sizes: Sequence[int]
    ) -> tuple[Array, Array | None, list[Array]]:
        """What `OnnxRasterProgram.run_row` gives for all these rows, in one run or joined from several."""
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
