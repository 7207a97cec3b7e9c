"""onnxruntime: the device, sessions on it, one run. The only module that imports it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# Must be set before the import: it writes a device id and a database into the user's cache otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ancestral_server.errors import BundleError, OutOfMemory, StartupError

Array = NDArray[Any]
Device = Literal["cpu", "cuda"]

DTYPES = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float)": np.dtype(np.float32),
}
_CUDA = "CUDAExecutionProvider"
# TF32 alone changes results by 1e-3, and an exhaustive search for convolution algorithms picks others from run to run;
# both would break the promise that a seed gives the same image.
_CUDA_OPTIONS = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
# Beside a GPU, onnxruntime computes shapes on the CPU, on purpose, with a few integers at a time; these are the
# operators that do. Any other node there would copy a whole batch to and fro.
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


class Runtime:
    """The device, and the number of threads that a session may compute on."""

    def __init__(self, device: Literal["auto", "cpu", "cuda"], threads: int) -> None:
        self._threads = threads
        self._want = Want()
        self.device: Device = "cpu"
        if device != "cpu":
            problem = cuda_problem()
            if problem is None:
                self.device = "cuda"
            elif device == "cuda":
                raise StartupError(f"--device cuda: no usable GPU: {problem}")

    def open(self, path: Path, *, on: Device | None = None, on_caller: bool = False) -> Session:
        """Load a graph; BundleError if onnxruntime refuses it or would run a node elsewhere than asked.

        on_caller: on the CPU, compute on the thread that calls `run` and no other.
        """
        options = ort.SessionOptions()
        # Not onnxruntime's one global pool: it allows no session without threads. Waiting threads cost nothing.
        options.intra_op_num_threads = 1 if on_caller else self._threads
        options.log_severity_level = 3
        # Threads that spin for work steal the cores from the event loop and from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if (on or self.device) == "cuda":
            # Not session.disable_cpu_ep_fallback: it refuses the nodes that compute shapes as well.
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            providers = [(_CUDA, _CUDA_OPTIONS), *providers]
        try:
            # enable_fallback: the Python class would otherwise retry on the CPU and hide the first error.
            session = ort.InferenceSession(path, options, providers=providers, enable_fallback=False)
        except Exception as error:  # onnxruntime raises a dozen types of its own
            if out_of_memory(error):
                self._want.times += 1
                raise BundleError(path.name, f"it does not fit into memory now: {_brief(error)}") from error
            raise BundleError(path.name, f"onnxruntime refuses it: {_brief(error)}") from error
        if (on or self.device) == "cuda" and (strays := nodes_off_the_gpu(session)):
            raise BundleError(path.name, f"{len(strays)} nodes would run on the CPU: {', '.join(strays[:5])}")
        return Session(session, self._want, "gpu:0" if (on or self.device) == "cuda" else "cpu:0")


class Want:
    """How often a run did not fit into memory, by any of a runtime's sessions."""

    def __init__(self) -> None:
        self.times = 0


class Session:
    """A loaded graph. arena: where it computes, as onnxruntime calls that."""

    def __init__(self, session: ort.InferenceSession, want: Want | None = None, arena: str = "cpu:0") -> None:
        self._session = session
        self._want = want or Want()
        self._heeded = self._want.times
        self._frugal = ort.RunOptions()
        self._frugal.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
        self.inputs = {i.name: (DTYPES.get(i.type), _shape(i.shape)) for i in session.get_inputs()}
        self.outputs = {o.name: (DTYPES.get(o.type), _shape(o.shape)) for o in session.get_outputs()}

    def close(self) -> None:
        """Give back what it holds, once a run that goes on has ended, whoever still refers to it: an error that was
        raised to a caller, for one, refers to the lane that it passed. A second time it does nothing.
        """
        vars(self).pop("_session", None)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """One run; arrays in by name, arrays out in the order of `outputs`. Releases the GIL.

        OutOfMemory if it did not fit, RuntimeError for what else onnxruntime raises.
        """
        options = None
        if self._heeded != self._want.times:
            # Someone lacks memory: what the arena keeps of earlier runs, for later ones, goes back after this one.
            options, self._heeded = self._frugal, self._want.times
        try:
            # Past the Python class around it, whose checks of what the programs have checked cost a lone image 30 µs.
            return list(self._session._sess.run(outputs, inputs, options))
        except Exception as error:
            if out_of_memory(error):
                self._want.times += 1
                raise OutOfMemory(f"out of memory: {_brief(error)}") from error
            raise RuntimeError(_brief(error)) from error


def nodes_off_the_gpu(session: ort.InferenceSession) -> list[str]:
    """Nodes of a graph, as OPERATOR NAME, that run on the CPU although they compute more than shapes.

    The session must have been opened with `session.record_ep_graph_assignment_info`.
    """
    return [
        f"{node.op_type} {node.name}".strip()
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != _CUDA
        for node in part.get_nodes()
        if node.op_type not in _OF_SHAPES
    ]


# onnxruntime has no type of its own for it. Of its arena, of the C++ library, of CUDA, cuDNN and cuBLAS, in this order.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|smaller than requested bytes"
    r"|bad_alloc|bad allocation"
    r"|out of memory|cudaErrorMemoryAllocation"
    r"|CUDNN_STATUS_\w*ALLOC|CUBLAS_STATUS_ALLOC_FAILED|CUBLAS failure 3\b",
    re.IGNORECASE,
)
# Of CUDA's failures onnxruntime tells the signature of a C++ template, twice, and the name of the machine.
_OF_CUDA = re.compile(r"\S*cuda_call\.cc:.*?(CU[A-Z]+ failure .*?) ; GPU=.*? ; expr=(.*)", re.DOTALL)


def out_of_memory(error: BaseException) -> bool:
    """Whether a run failed for want of memory, so that a smaller one may succeed."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, naming the missing library; None if it can."""
    if _CUDA not in ort.get_available_providers():
        return "this build of onnxruntime has no CUDA provider (install onnxruntime-gpu)"
    if sys.platform != "linux":
        return f"the CUDA provider needs Linux, this is {sys.platform}"
    try:
        ctypes.CDLL("libcuda.so.1")  # NVIDIA's driver
    except OSError as error:
        driver = str(error)
    else:
        driver = ""
    _preload_cuda()
    capi = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(capi / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return "; ".join(filter(None, (str(error), driver)))
    return driver or None


def _preload_cuda() -> None:
    """Load the CUDA libraries that pip installed, without the messages that onnxruntime prints where there are none."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ort.preload_dlls()


def _shape(shape: Sequence[int | str | None]) -> tuple[int | None, ...]:
    return tuple(axis if isinstance(axis, int) else None for axis in shape)


def _brief(error: Exception) -> str:
    """What an error says, in a line."""
    told = _OF_CUDA.sub(r"\1: \2", str(error)).strip()
    return (told.splitlines() or [type(error).__name__])[0].rstrip("; ")
