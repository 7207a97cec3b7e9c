"""A small builder for ONNX graphs written by hand: one call per node, values are names, constants are numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
# The IR that opset 20 came with: readable by every onnxruntime since 1.17.
IR_VERSION = 9

Constant = np.ndarray[Any, Any]


class GraphBuilder:
    """Collects the nodes of one graph, or of a subgraph such as a Scan's body, which may use its outer graph's values.

    An operand is the name of a value, or a numpy array that becomes a constant of this graph. The names of values and
    nodes begin with `prefix`, which tells them from those of a graph that these nodes become a part of.
    """

    def __init__(self, name: str, outer: GraphBuilder | None = None, prefix: str = "") -> None:
        self.name = name
        self.prefix: str = outer.prefix if outer else prefix
        self._numbers: count[int] = outer._numbers if outer else count()
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._made: set[str] = set()  # values that a node of this graph gives
        self._renamed: dict[str, str] = {}  # values that became outputs, by their first names

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare an input; `dtype` is a TensorProto data type, a string in `shape` a named axis."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, value: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare that the graph gives `value` out under `name`."""
        if value in self._made and value not in self._renamed:
            self._renamed[value] = name  # no node, no copy
        else:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"{self.name}_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def constant(self, value: Constant) -> str:
        name = f"{self.prefix}constant_{next(self._numbers)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, *operands: str | Constant, **attributes: Any) -> str:
        """Append a node with one output; returns its name."""
        return self.add_many(op, 1, *operands, **attributes)[0]

    def add_many(self, op: str, outputs: int, *operands: str | Constant, **attributes: Any) -> list[str]:
        """Append a node with several outputs; returns their names."""
        inputs = [value if isinstance(value, str) else self.constant(value) for value in operands]
        number = next(self._numbers)
        names = [f"{self.prefix}{op.lower()}_{number}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, name=f"{self.prefix}{op}_{number}", **attributes))
        self._made.update(names)
        return names

    def cast(self, value: str, dtype: int) -> str:
        return self.add("Cast", value, to=dtype)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; one axis may be -1 (inferred), and 0 keeps the axis in that place."""
        return self.add("Reshape", value, np.array(shape, np.int64))

    def graph(self) -> onnx.GraphProto:
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [self._renamed.get(name, name) for name in names]
        return helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, initializer=self._constants)

    def model(self) -> onnx.ModelProto:
        """The finished model, checked."""
        model = helper.make_model(
            self.graph(),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="ancestral-exporter",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
UINT8 = TensorProto.UINT8
BOOL = TensorProto.BOOL
