"""Which nodes of a graph do not run on the GPU although they should.

What:   looks up where onnxruntime has put each node, and leaves out those that compute shapes.
Why:    onnxruntime runs what its CUDA provider lacks on the CPU and says nothing, each time copying a whole batch to
        and fro. Its `session.disable_cpu_ep_fallback` refuses as well the nodes that compute shapes, a few integers at
        a time, which it puts on the CPU on purpose.
Since:  1.31.
Costs:  a list of the operators that compute shapes.
Goes:   tests/server/runtime/test_onnxruntime_workarounds.py::test_onnxruntime_is_the_one_that_was_looked_at
"""

from __future__ import annotations

from typing import Any

CUDA = "CUDAExecutionProvider"
_OF_SHAPES = frozenset(
    (
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "Div",
        "Gather",
        "Mul",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
    )
)


def nodes_off_the_gpu(session: Any) -> list[str]:
    """Nodes of a graph, as OPERATOR NAME, that run on the CPU although they compute more than shapes.

    The session must have been opened with `session.record_ep_graph_assignment_info`.
    """
    return [
        f"{node.op_type} {node.name}".strip()
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != CUDA
        for node in part.get_nodes()
        if node.op_type not in _OF_SHAPES
    ]
