"""The ONNX side of `recurrence`: an LSTM's cell in nodes, and a Scan for each convolutional LSTM. Needs no torch.

Letters: T steps, G groups, N images, P places, S size of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ancestral_exporter.models.graph_builder import FLOAT, GraphBuilder

# Of the node that a tracer leaves where a convolutional LSTM is: its inputs are what the images add to the gates,
# [T,G,N,P,4S], and the weights, its output the hidden states [T,G,N,P,S].
DOMAIN, OPERATOR, OFFSETS = "ancestral", "ConvolutionalLSTM", "offsets"


def lstm_step(graph: GraphBuilder, switches: str, candidate: str, cell: str) -> tuple[str, str]:
    """The next hidden state and cell [...,S], of switches [...,3S] after a sigmoid and a candidate after a tanh."""
    output, forget, enter = graph.add_many("Split", 3, switches, axis=-1, num_outputs=3)
    cell = graph.add("Add", graph.add("Mul", forget, cell), graph.add("Mul", enter, candidate))
    return graph.add("Mul", output, graph.add("Tanh", cell)), cell


def lstm_step_of_sums(graph: GraphBuilder, sums: str, cell: str, size: int) -> tuple[str, str]:
    """The next hidden state and cell [...,S] of what goes into the gates [...,4S]."""
    switches, candidate = graph.add_many("Split", 2, sums, np.array([3 * size, size]), axis=-1)
    return lstm_step(graph, graph.add("Sigmoid", switches), graph.add("Tanh", candidate), cell)


def expand(model: onnx.ModelProto) -> None:
    """Put Scans in the place of the convolutional LSTMs that a tracer has left, in place."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, OPERATOR):
            nodes.append(node)
            continue
        (offsets,) = (attribute.ints for attribute in node.attribute if attribute.name == OFFSETS)
        _, groups, _, places, size = (axis.dim_value for axis in shapes[node.output[0]])
        built = _scan(node, offsets, groups, places, size)
        nodes += built.node
        model.graph.initializer.extend(built.initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


def _scan(node: onnx.NodeProto, offsets: Sequence[int], groups: int, places: int, size: int) -> onnx.GraphProto:
    """What gives the output of `node`; `groups`, `places` and `size` are G, P and S."""
    (sums, weights), (states,) = node.input, node.output
    title = f"{states}/"
    graph = GraphBuilder("lstm", prefix=title)
    body = GraphBuilder("step", outer=graph)
    shape: list[int | str] = [groups, "batch", places, size]
    hidden, cell = body.input(f"{title}hidden", FLOAT, shape), body.input(f"{title}cell", FLOAT, shape)
    step = body.input(f"{title}sums", FLOAT, [groups, "batch", places, 4 * size])
    # Neighbours outside are the zeros that are put behind the last place. That place has a product too, which keeps
    # a lone image of one place from a product of one row: onnxruntime rounds such ones otherwise.
    padded = body.add("Pad", hidden, np.array([0, 0, 0, 0, 0, 0, 1, 0]))
    neighbours = np.arange(places + 1)[:, None] + np.array(offsets)
    neighbours[(neighbours < 0) | (neighbours >= places)] = places
    window = body.reshape(body.add("Gather", padded, neighbours, axis=2), groups, -1, len(offsets) * size)
    seen = body.reshape(body.add("MatMul", window, weights), groups, -1, places + 1, 4 * size)
    seen = body.add("Slice", seen, np.array([0]), np.array([places]), np.array([2]))
    next_hidden, next_cell = lstm_step_of_sums(body, body.add("Add", step, seen), cell, size)
    body.output(f"{title}next_hidden", next_hidden, FLOAT, shape)
    body.output(f"{title}next_cell", next_cell, FLOAT, shape)
    body.output(f"{title}state", next_hidden, FLOAT, shape)

    batch = graph.add("Shape", sums, start=2, end=3)
    fresh = graph.add("Concat", np.array([groups]), batch, np.array([places, size]), axis=0)
    zeros = graph.add("ConstantOfShape", fresh)
    results = graph.add_many("Scan", 3, zeros, zeros, sums, body=body.graph(), num_scan_inputs=1)
    graph.output(states, results[2], FLOAT, ["steps", *shape])
    return graph.graph()
