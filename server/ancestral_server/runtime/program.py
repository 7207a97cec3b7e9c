"""The two kinds of program. A program binds a role of the manifest to a session and speaks in meanings, never in names.

Letters: B rows of a batch, H, W, C image axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ancestral.bundle import rules
from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.errors import BundleError
from ancestral_server.runtime.session import Array, Session

Meaning: TypeAlias = bundle_pb2.Meaning.ValueType


class Program:
    """What one-shot and raster programs share: tensors by meaning, checked against the graph at load."""

    def __init__(self, role: bundle_pb2.Role, session: Session, manifest: bundle_pb2.Bundle) -> None:
        self.role = role
        image = manifest.image
        self.image_shape = (image.height, image.width, image.channels)
        self.label_count = manifest.label_count
        self._session = session
        self._zeros: dict[tuple[Meaning, int], Array] = {}
        self.inputs = {tensor.meaning: tensor for tensor in role.inputs}
        self.outputs = {tensor.meaning: tensor for tensor in role.outputs}
        for side, found in ((role.inputs, session.inputs), (role.outputs, session.outputs)):
            for tensor in side:
                self._check(tensor.name, tensor.dtype, tensor.shape, found)
        # Bytes of one row of each output.
        self.row_bytes = {
            tensor.meaning: math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize for tensor in role.outputs
        }
        fed = {tensor.name for tensor in role.inputs} | {state.input for state in role.states}
        if unfed := session.inputs.keys() - fed:
            raise BundleError(role.graph, f"role {role.name}: the manifest does not say how to feed {sorted(unfed)}")

    def _require(self, side: str, tensors: Mapping[Meaning, bundle_pb2.TensorSpec], *meanings: Meaning) -> None:
        """BundleError unless one of these is there."""
        if tensors.keys().isdisjoint(meanings):
            names = " or ".join(bundle_pb2.Meaning.Name(meaning) for meaning in meanings)
            raise BundleError(self.role.graph, f"role {self.role.name}: no {side} means {names}")

    def _check(
        self,
        name: str,
        dtype: int,
        shape: Sequence[int],
        found: Mapping[str, tuple[np.dtype[np.generic] | None, tuple[int | None, ...]]],
    ) -> None:
        where = f"role {self.role.name}: tensor {name!r}"
        if name not in found:
            raise BundleError(self.role.graph, f"{where} is not in the graph, which has {sorted(found)}")
        graph_dtype, graph_shape = found[name]
        if DTYPES.get(dtype) != graph_dtype:
            raise BundleError(
                self.role.graph, f"{where} is {graph_dtype} in the graph, {DTYPES.get(dtype)} in the manifest"
            )
        if len(graph_shape) != len(shape) + 1 or any(
            a is not None and a != b for a, b in zip(graph_shape[1:], shape, strict=True)
        ):
            raise BundleError(
                self.role.graph, f"{where} has shape {graph_shape} in the graph, [B]+{list(shape)} in the manifest"
            )
        if graph_shape[0] is not None:
            raise BundleError(
                self.role.graph, f"{where}: axis 0 must be the batch, the graph fixes it at {graph_shape[0]}"
            )

    def check_outputs(self, outputs: Mapping[Meaning, Array], rows: int) -> None:
        """BundleError unless a run of so many rows gave each tensor as the manifest says: a graph may promise more than
        it keeps, such as one that was traced with a fixed batch.
        """
        for meaning, array in outputs.items():
            tensor = self.outputs[meaning]
            if array.shape != (rows, *tensor.shape) or array.dtype != DTYPES[tensor.dtype]:
                raise BundleError(
                    self.role.graph,
                    f"role {self.role.name}: tensor {tensor.name!r} of {rows} rows came as {array.dtype}"
                    f"{list(array.shape)}, must be {DTYPES[tensor.dtype]}{[rows, *tensor.shape]}",
                )

    def blank(self, meaning: Meaning, rows: int) -> Array:
        """Zeros [rows, ...] in the shape and type of an input, to write to."""
        tensor = self.inputs[meaning]
        return np.zeros((rows, *tensor.shape), DTYPES[tensor.dtype])

    def zeros(self, meaning: Meaning, rows: int) -> Array:
        """The same for an input that nobody asked to be anything else: made once, only to be read."""
        key = (meaning, rows)
        if key not in self._zeros:
            self._zeros[key] = self.blank(meaning, rows)
        return self._zeros[key]


class Needs(NamedTuple):
    """The tensors, by meaning, that whoever asks for a one-shot role reads and writes; roles that nobody of ours asks
    for may be anything.
    """

    inputs: tuple[Meaning, ...] = ()
    outputs: tuple[Meaning, ...] = ()
    # At least one of these, where there are any.
    one_output_of: tuple[Meaning, ...] = ()


NO_NEEDS = Needs()


class OneShotProgram(Program):
    """Arrays in, one run, arrays out; axis 0 is the batch."""

    def __init__(
        self, role: bundle_pb2.Role, session: Session, manifest: bundle_pb2.Bundle, needs: Needs = NO_NEEDS
    ) -> None:
        super().__init__(role, session, manifest)
        for meaning in needs.inputs:
            self._require("input", self.inputs, meaning)
        for meaning in needs.outputs:
            self._require("output", self.outputs, meaning)
        if needs.one_output_of:
            self._require("output", self.outputs, *needs.one_output_of)
        # Looked up at each run: a message makes a new string of its name whenever it is asked.
        self._input_names = {meaning: tensor.name for meaning, tensor in self.inputs.items()}
        self._output_names = {meaning: tensor.name for meaning, tensor in self.outputs.items()}

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        """The wanted outputs [B, ...] of a run; `inputs` holds an array [B, ...] for every input of the role.

        onnxruntime runs every node of a graph, whatever is wanted (microsoft/onnxruntime#16013). Raises what
        `Session.run` raises.
        """
        arrays = self._session.run(
            [self._output_names[meaning] for meaning in wanted],
            {self._input_names[meaning]: array for meaning, array in inputs.items()},
        )
        return dict(zip(wanted, arrays, strict=True))


class RasterProgram(Program):
    """One run paints one image row [B,W,C] for all running samples; the caller keeps the states, see `History`."""

    REQUIRED_INPUTS = (
        bundle_pb2.MEANING_GIVEN,
        bundle_pb2.MEANING_KNOWN,
        bundle_pb2.MEANING_UNIFORMS,
        bundle_pb2.MEANING_TEMPERATURE,
    )

    def __init__(self, role: bundle_pb2.Role, session: Session, manifest: bundle_pb2.Bundle) -> None:
        super().__init__(role, session, manifest)
        for meaning in self.REQUIRED_INPUTS:
            self._require("input", self.inputs, meaning)
        self._require("output", self.outputs, bundle_pb2.MEANING_ROW)
        for state in role.states:
            for name, found in ((state.input, session.inputs), (state.output, session.outputs)):
                self._check(name, tensor_pb2.DATA_TYPE_FLOAT32, state.shape, found)
        # Of each state: how many rows down the image a run's output is the input.
        self.rows_back = [rules.rows_back(state) for state in role.states]
        self._names = [tensor.name for tensor in role.outputs] + [state.output for state in role.states]
        self._row = [tensor.meaning for tensor in role.outputs].index(bundle_pb2.MEANING_ROW)
        meanings = [tensor.meaning for tensor in role.outputs]
        likelihood = bundle_pb2.MEANING_LOG_LIKELIHOOD
        self._log_likelihood = meanings.index(likelihood) if likelihood in meanings else None
        self.has_log_likelihood = self._log_likelihood is not None

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

    def check_row(self, row: Array, likelihood: Array | None, rows: int) -> None:
        """`check_outputs` of a run of so many samples."""
        self.check_outputs({bundle_pb2.MEANING_ROW: row}, rows)
        if likelihood is not None:
            self.check_outputs({bundle_pb2.MEANING_LOG_LIKELIHOOD: likelihood}, rows)
