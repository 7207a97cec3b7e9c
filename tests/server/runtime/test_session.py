"""Which failures of a run mean that a smaller one may succeed, and which nodes have no business on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import toybundle
from ancestral_server.errors import OutOfMemory
from ancestral_server.runtime.onnxruntime_workarounds.gpu_nodes import nodes_off_the_gpu
from ancestral_server.runtime.onnxruntime_workarounds.messages import out_of_memory
from ancestral_server.runtime.session import Runtime, Session


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 Failed to allocate memory for requested buffer "
        "of size 4398046511104",
        "Available memory of 1024 is smaller than requested bytes of 4096",
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUDNN failure 2002: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: the resource allocation failed ; GPU=0",
    ],
)
def test_want_of_memory_is_known_by_its_words(message: str) -> None:
    assert out_of_memory(RuntimeError(message))


def test_other_failures_are_not_want_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions"))
    assert not out_of_memory(RuntimeError("CUBLAS failure 13: the function failed to launch on the GPU"))


class Full:
    """onnxruntime's session as it fails."""

    def __init__(self, message: str = "Failed to allocate memory for requested buffer of size 7\nand a trace") -> None:
        self._sess = self
        self._message = message

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs

    def run(self, outputs: list[str], inputs: dict[str, Any], options: Any) -> None:
        raise RuntimeError(self._message)


def test_a_run_that_does_not_fit_says_so_in_a_line() -> None:
    with pytest.raises(OutOfMemory) as failure:
        Session(Full()).run([], {})
    assert str(failure.value) == "out of memory: Failed to allocate memory for requested buffer of size 7"


def test_of_a_failure_on_a_gpu_is_told_what_failed_and_not_on_which_machine() -> None:
    # As onnxruntime 1.31 says it, the signature shortened.
    call = "/src/cuda_call.cc:{} std::conditional_t<THRW, void> CudaCall(ERRTYPE) [with ERRTYPE = cublasStatus_t] "
    failure = (
        "CUBLAS failure 3: the resource allocation failed ; GPU=0 ; hostname=vm ; file=/src/stream.cc ; line=79 ; "
    )
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : "
        + call.format(154)
        + call.format(146)
        + failure
        + "expr=cublasCreate(&h); \n\n"
    )
    with pytest.raises(OutOfMemory) as raised:
        Session(Full(said)).run([], {})
    failed = "CUBLAS failure 3: the resource allocation failed: cublasCreate(&h)"
    assert str(raised.value) == "out of memory: [ONNXRuntimeError] : 1 : FAIL : " + failed


# In a process of its own, whose memory is that of this session. Prints how many bytes it gave back.
GIVES_BACK = """
import contextlib, os, sys
from pathlib import Path
import numpy as np
from ancestral_server.errors import OutOfMemory
from ancestral_server.runtime.session import Runtime, Session

class Full:
    def __init__(self):
        self._sess = self
    def get_inputs(self):
        return []
    get_outputs = get_inputs
    def run(self, outputs, inputs, options):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 7")

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def run(rows):
    (code,) = session.run(["code"], {"image": np.full((rows, 4, 3, 1), 9, np.uint8)})
    return code[0].tobytes()

runtime = Runtime("cpu", 1)
session = runtime.open(Path(sys.argv[1]))
answer = run(256)
assert run(1) == answer
kept = resident()
with contextlib.suppress(OutOfMemory):
    Session(Full(), runtime._shortages).run([], {})
assert run(1) == answer
print(kept - resident())
assert run(256) == answer
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_where_memory_is_wanted_every_session_gives_back_what_it_keeps_for_later(tmp_path: Path) -> None:
    graph = tmp_path / "encode.onnx"
    toybundle.encode_graph(graph, scratch=100_000)
    done = subprocess.run([sys.executable, "-c", GIVES_BACK, str(graph)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # 256 rows of 100,000 floats.
    assert int(done.stdout) > 80_000_000


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
