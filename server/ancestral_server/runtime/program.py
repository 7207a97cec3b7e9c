"""The two kinds of program. A program binds a role of the manifest to a session and speaks in meanings, never in names.

Letters: B rows of a batch, H, W, C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.errors import BundleError
from ancestral_server.runtime.session import Array, Session

Meaning: TypeAlias = bundle_pb2.Meaning.ValueType

DTYPES: dict[int, np.dtype[np.generic]] = {
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_INT32: np.dtype(np.int32),
    tensor_pb2.DATA_TYPE_INT64: np.dtype(np.int64),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype(np.float32),
}


class Program:
    """What one-shot and raster programs share: tensors by meaning, checked against the graph at load."""

    def __init__(self, role: bundle_pb2.Role, session: Session) -> None:
        self.role = role
        self._session = session
        self.inputs = {tensor.meaning: tensor for tensor in role.inputs}
        self.outputs = {tensor.meaning: tensor for tensor in role.outputs}
        for side, found in ((role.inputs, session.inputs), (role.outputs, session.outputs)):
            for tensor in side:
                self._check(tensor.name, tensor.dtype, tensor.shape, found)
        fed = {tensor.name for tensor in role.inputs} | {state.input for state in role.states}
        if unfed := session.inputs.keys() - fed:
            raise BundleError(role.graph, f"role {role.name}: the manifest does not say how to feed {sorted(unfed)}")

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

    def blank(self, meaning: Meaning, rows: int) -> Array:
        """Zeros [rows, ...] for an input that nobody asked to be anything else."""
        tensor = self.inputs[meaning]
        return np.zeros((rows, *tensor.shape), DTYPES[tensor.dtype])


class OneShotProgram(Program):
    """Arrays in, one run, arrays out; axis 0 is the batch."""

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        names = [self.outputs[meaning].name for meaning in wanted]
        arrays = self._session.run(names, {self.inputs[meaning].name: array for meaning, array in inputs.items()})
        return dict(zip(wanted, arrays, strict=True))


class RasterProgram(Program):
    """One run paints one image row [B,W,C] for all running samples; states are carried by the caller."""

    REQUIRED_INPUTS = (
        bundle_pb2.MEANING_GIVEN,
        bundle_pb2.MEANING_KNOWN,
        bundle_pb2.MEANING_UNIFORMS,
        bundle_pb2.MEANING_TEMPERATURE,
    )

    def __init__(self, role: bundle_pb2.Role, session: Session, image: bundle_pb2.ImageSpec) -> None:
        super().__init__(role, session)
        self.image_shape = (image.height, image.width, image.channels)
        for meaning in self.REQUIRED_INPUTS:
            if meaning not in self.inputs:
                raise BundleError(role.graph, f"role {role.name}: no input means {bundle_pb2.Meaning.Name(meaning)}")
        if bundle_pb2.MEANING_ROW not in self.outputs:
            raise BundleError(role.graph, f"role {role.name}: no output means MEANING_ROW")
        for state in role.states:
            for name, found in ((state.input, session.inputs), (state.output, session.outputs)):
                self._check(name, tensor_pb2.DATA_TYPE_FLOAT32, state.shape, found)
        self._names = [tensor.name for tensor in role.outputs] + [state.output for state in role.states]
        self._row = [tensor.meaning for tensor in role.outputs].index(bundle_pb2.MEANING_ROW)
        meanings = [tensor.meaning for tensor in role.outputs]
        likelihood = bundle_pb2.MEANING_LOG_LIKELIHOOD
        self._log_likelihood = meanings.index(likelihood) if likelihood in meanings else None
        self.has_log_likelihood = self._log_likelihood is not None

    def fresh_states(self, rows: int) -> list[Array]:
        """The states of samples that have not begun: zeros."""
        return [np.zeros((rows, *state.shape), np.float32) for state in self.role.states]

    def run_row(
        self, inputs: Mapping[Meaning, Array], states: Sequence[Array]
    ) -> tuple[Array, Array | None, list[Array]]:
        """Painted row [B,W,C] uint8, its log-likelihood [B] (None if the model has none), next states."""
        feeds = {self.inputs[meaning].name: array for meaning, array in inputs.items()}
        feeds.update((state.input, array) for state, array in zip(self.role.states, states, strict=True))
        arrays = self._session.run(self._names, feeds)
        likelihood = None if self._log_likelihood is None else arrays[self._log_likelihood]
        return arrays[self._row], likelihood, arrays[len(self.role.outputs) :]
