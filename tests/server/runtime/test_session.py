"""Which failures of a run mean that a smaller one may succeed, and which nodes have no business on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import toybundle
from ancestral_server.errors import OutOfMemory
from ancestral_server.runtime.session import Runtime, Session, nodes_off_the_gpu, out_of_memory


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 Failed to allocate memory for requested buffer "
        "of size 4398046511104",
        "Available memory of 1024 is smaller than requested bytes of 4096",
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUDNN failure 2002: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_want_of_memory_is_known_by_its_words(message: str) -> None:
    assert out_of_memory(RuntimeError(message))


def test_other_failures_are_not_want_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions"))


class Full:
    """onnxruntime's session as it fails."""

    def __init__(self) -> None:
        self._sess = self

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs

    def run(self, outputs: list[str], inputs: dict[str, Any], options: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 7\nand a trace")


def test_a_run_that_does_not_fit_says_so_in_a_line() -> None:
    with pytest.raises(OutOfMemory) as failure:
        Session(Full()).run([], {})
    assert str(failure.value) == "out of memory: Failed to allocate memory for requested buffer of size 7"


def test_what_else_goes_wrong_is_passed_on(tmp_path: Path) -> None:
    folder = toybundle.write(tmp_path)
    session = Runtime("cpu", 1).open(folder / "encode.onnx")
    with pytest.raises(Exception, match="Got invalid dimensions"):
        session.run(["code"], {"image": np.zeros((1, 9, 9, 1), np.uint8)})


def on_the_cpu(*nodes: onnx.NodeProto) -> ort.InferenceSession:
    """A session of x [B,3] -> y [B,3]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in "xy")
    graph = helper.make_graph(list(nodes), "nodes", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_of_the_nodes_on_the_cpu_only_those_that_compute_shapes_may_be_there() -> None:
    shape = helper.make_node("Shape", ["x"], ["shape"])
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"], name="last")
    assert nodes_off_the_gpu(on_the_cpu(shape, reshape)) == ["Reshape last"]
    assert nodes_off_the_gpu(on_the_cpu(helper.make_node("Tanh", ["x"], ["y"]))) == ["Tanh"]
