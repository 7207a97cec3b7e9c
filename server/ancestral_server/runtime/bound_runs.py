"""Runs of a session whose inputs and outputs have buffers of their own on the device, for each size, made once.

onnxruntime would else take memory for each run's inputs and outputs, and give it back. A run of a small encoder on a
GPU takes 151 µs with its tensors kept there, 199 µs with arrays in and out (`tests/benchmarks/gpu.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
# Names of outputs, and shapes of inputs by name.
Key: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]


class _Buffers:
    """What one run at a time uses: buffers of one size, bound to the graph's inputs and outputs."""

    def __init__(
        self,
        session: Any,
        values: Any,
        place: tuple[str, int],
        outputs: Mapping[str, tuple[Any, tuple[int | None, ...]]],
        inputs: Mapping[str, Array],
    ) -> None:
        self.binding = session.io_binding()
        self.inputs = {
            name: values.ortvalue_from_shape_and_type(array.shape, array.dtype, *place)
            for name, array in inputs.items()
        }
        self.outputs = {
            name: values.ortvalue_from_shape_and_type(shape, dtype, *place) for name, (dtype, shape) in outputs.items()
        }
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self.binding.bind_ortvalue_output(name, value)


class BoundRuns:
    """Of an `InferenceSession`, whose tensors have the batch as axis 0.

    values: onnxruntime's `OrtValue`. place: the device, as onnxruntime calls it, and its number. outputs: type and
    shape of each, without the batch.
    """

    def __init__(
        self,
        session: Any,
        values: Any,
        place: tuple[str, int],
        outputs: Mapping[str, tuple[Any, tuple[int | None, ...]]],
    ) -> None:
        self._session = session
        self._values = values
        self._place = place
        self._outputs = outputs
        # Buffers that are not in use now: a run takes some and puts them back.
        self._spare: dict[Key, list[_Buffers]] = {}

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any) -> list[Array]:
        """What `InferenceSession.run` gives; raises what that raises."""
        key = tuple(outputs), tuple((name, array.shape) for name, array in inputs.items())
        spare = self._spare.setdefault(key, [])
        try:
            buffers = spare.pop()
        except IndexError:
            rows = len(next(iter(inputs.values())))
            wanted = {name: (self._outputs[name][0], (rows, *self._outputs[name][1])) for name in outputs}
            buffers = _Buffers(self._session, self._values, self._place, wanted, inputs)
        for name, array in inputs.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(buffers.binding, options)
        # Copies: the next run of that size writes to the same buffers. What a run that failed has used is let go.
        arrays = [np.array(buffers.outputs[name].numpy()) for name in outputs]
        spare.append(buffers)
        return arrays

    def clear(self) -> None:
        """Give back the buffers that no run uses."""
        self._spare.clear()
