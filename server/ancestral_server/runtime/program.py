"""The two kinds of program. A program binds a role of the manifest to what runs it and speaks in meanings, never names.

Letters: B rows of a batch, or samples of an image row; N samples that begin; H, W, C image axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np

from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError

if TYPE_CHECKING:  # what launches kernels needs no onnxruntime
    from ancestral_server.runtime.session import Array, Session

Meaning: TypeAlias = bundle_pb2.Meaning.ValueType

# Inputs of a raster program of which a run takes a row; samples bring them whole, [H,W,C].
BY_ROW = (bundle_pb2.MEANING_GIVEN, bundle_pb2.MEANING_KNOWN, bundle_pb2.MEANING_UNIFORMS)


class Program:
    """What all programs share: tensors by meaning, as the manifest declares them."""

    def __init__(self, role: bundle_pb2.Role, manifest: bundle_pb2.Bundle) -> None:
        self.role = role
        image = manifest.image
        self.image_shape = (image.height, image.width, image.channels)
        self.label_count = manifest.label_count
        self._zeros: dict[tuple[Meaning, int], Array] = {}
        self.inputs = {tensor.meaning: tensor for tensor in role.inputs}
        self.outputs = {tensor.meaning: tensor for tensor in role.outputs}
        # Bytes of one row of each output.
        self.row_bytes = {
            tensor.meaning: math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize for tensor in role.outputs
        }

    def close(self) -> None:
        """Give back what it holds beside its session, once a run that goes on has ended; a second time nothing."""

    def _require(self, side: str, tensors: Mapping[Meaning, bundle_pb2.TensorSpec], *meanings: Meaning) -> None:
        """BundleError unless one of these is there."""
        if tensors.keys().isdisjoint(meanings):
            names = " or ".join(bundle_pb2.Meaning.Name(meaning) for meaning in meanings)
            raise BundleError(self.role.graph, f"role {self.role.name}: no {side} means {names}")

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
        super().__init__(role, manifest)
        self._session = session
        check_graph(role, session)
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


class Painting(Protocol):
    """Samples at the places from 0 on, each at a row of its own. Samples begin, move and end between two rows; where a
    row goes on while the caller does something else (`overlaps`), only `place` may be called meanwhile.
    """

    def place(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        """Begin N samples at these free places [N], which are not in a row that goes on.

        inputs: by meaning, [N,H,W,C] where a run takes a row of them, else [N, ...]; what is not there is zeros.
        """

    def move(self, sources: Array, targets: Array, left: int) -> None:
        """Put the samples at some places to others [n], whose samples have ended; none is left from `left` on."""

    def reorder(self, order: Sequence[int]) -> None:
        """Put the sample at `order[i]` to place i; all samples are in the order, each once."""

    def begin_row(self, rows: Array, sizes: Sequence[int]) -> None:
        """Paint row `rows[i]` of the sample at place i, of the first B places, in runs of these sizes, which together
        hold B or more. A run that fails leaves everything as it was.
        """

    def end_row(self) -> tuple[Array, Array | None]:
        """The row that was begun: [B,W,C] uint8, for the caller to keep, and its log-likelihood [B], None if the model
        tells none.
        """


class RasterProgram(Program, ABC):
    """Paints images row by row, on a `Painting`. What runs it is a form of the role: a graph, or a kernel of a GPU."""

    # For people and metrics.
    form: str
    # Whether its rows go on by themselves once they have begun.
    overlaps: bool = False

    REQUIRED_INPUTS = (
        bundle_pb2.MEANING_GIVEN,
        bundle_pb2.MEANING_KNOWN,
        bundle_pb2.MEANING_UNIFORMS,
        bundle_pb2.MEANING_TEMPERATURE,
    )

    def __init__(self, role: bundle_pb2.Role, manifest: bundle_pb2.Bundle) -> None:
        super().__init__(role, manifest)
        for meaning in self.REQUIRED_INPUTS:
            self._require("input", self.inputs, meaning)
        self._require("output", self.outputs, bundle_pb2.MEANING_ROW)
        self.has_log_likelihood = bundle_pb2.MEANING_LOG_LIKELIHOOD in self.outputs

    @abstractmethod
    def painting(self, places: int) -> Painting:
        """Something to paint so many samples on at a time."""

    def check_row(self, row: Array, likelihood: Array | None, rows: int) -> None:
        """`check_outputs` of a run of so many samples."""
        self.check_outputs({bundle_pb2.MEANING_ROW: row}, rows)
        if likelihood is not None:
            self.check_outputs({bundle_pb2.MEANING_LOG_LIKELIHOOD: likelihood}, rows)


class RowsLost(RuntimeError):
    """A run gave another number of rows than it was fed."""


def check_rows(arrays: Iterable[Array], rows: int) -> None:
    """RowsLost unless a run of so many rows gave as many of each: a graph may lose some by what is in them, and the
    next rows would go to the wrong callers. Load has seen only blank ones.
    """
    for array in arrays:
        if array.shape[:1] != (rows,):
            raise RowsLost(f"the graph gave {list(array.shape)} for {rows} rows")


def check_graph(role: bundle_pb2.Role, session: Session) -> None:
    """BundleError unless a graph has the tensors of its role, as the manifest declares them, and no other inputs."""
    for side, found in ((role.inputs, session.inputs), (role.outputs, session.outputs)):
        for tensor in side:
            check_tensor(role, tensor.name, tensor.dtype, tensor.shape, found)
    fed = {tensor.name for tensor in role.inputs} | {state.input for state in role.states}
    if unfed := session.inputs.keys() - fed:
        raise BundleError(role.graph, f"role {role.name}: the manifest does not say how to feed {sorted(unfed)}")


def check_tensor(
    role: bundle_pb2.Role,
    name: str,
    dtype: int,
    shape: Sequence[int],
    found: Mapping[str, tuple[np.dtype[np.generic] | None, tuple[int | None, ...]]],
) -> None:
    where = f"role {role.name}: tensor {name!r}"
    if name not in found:
        raise BundleError(role.graph, f"{where} is not in the graph, which has {sorted(found)}")
    graph_dtype, graph_shape = found[name]
    if DTYPES.get(dtype) != graph_dtype:
        raise BundleError(role.graph, f"{where} is {graph_dtype} in the graph, {DTYPES.get(dtype)} in the manifest")
    if len(graph_shape) != len(shape) + 1 or any(
        a is not None and a != b for a, b in zip(graph_shape[1:], shape, strict=True)
    ):
        raise BundleError(
            role.graph, f"{where} has shape {graph_shape} in the graph, [B]+{list(shape)} in the manifest"
        )
    if graph_shape[0] is not None:
        raise BundleError(role.graph, f"{where}: axis 0 must be the batch, the graph fixes it at {graph_shape[0]}")
