"""onnxruntime: the device, sessions on it, one run. The only module that imports it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import onnxruntime as ort
from numpy.typing import NDArray

from ancestral.bundle.dtypes import DTYPES, ONNX_NAMES
from ancestral_server.errors import BundleError, DeviceLost, OutOfMemory, Overdue, StartupError
from ancestral_server.runtime import memory
from ancestral_server.runtime.bound_runs import BoundRuns
from ancestral_server.runtime.kernels import driver
from ancestral_server.runtime.onnxruntime_workarounds import bare_run, current_gpu
from ancestral_server.runtime.onnxruntime_workarounds.gpu_nodes import CUDA, nodes_off_the_gpu
from ancestral_server.runtime.onnxruntime_workarounds.messages import (
    brief,
    device_lost,
    out_of_memory,
    requested_bytes,
)
from ancestral_server.runtime.watchdog import Watchdog

Array = NDArray[Any]
# "cpu", "cuda" or "cuda:N", N being the number of a GPU from 0 on.
Device: TypeAlias = str

# By onnxruntime's name.
_DTYPES = {ONNX_NAMES[number]: dtype for number, dtype in DTYPES.items()}
# Only what ends the process. What goes wrong is raised; onnxruntime would also write it to stderr, in red, between the
# lines of the log, and for every part of a run that is tried again.
_SILENT = 4
# TF32 alone changes results by 1e-3, and an exhaustive search for convolution algorithms picks others from run to run;
# both would break the promise that a seed gives the same image.
_CUDA_OPTIONS = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}


@dataclass(frozen=True)
class Graph:
    """A graph as it was read. data: the folder of the files, if any, in which it keeps what is too large for it."""

    name: str
    content: bytes
    data: Path


@dataclass
class Trial:
    """How far a load has come.

    end: when it has to be over, time.monotonic() seconds. steps: graphs that were opened and runs that were made.
    """

    end: float = math.inf
    steps: int = 0


class Runtime:
    """The device, and the number of threads that a session may compute on. StartupError if it cannot be used.

    run_seconds: how long a run may go on that serves calls. asked: what was said of devices, if it was more than this.
    """

    def __init__(
        self,
        device: str,
        threads: int,
        *,
        run_seconds: float = math.inf,
        library: str = driver.LIBRARY,
        asked: str = "",
    ) -> None:
        self._threads = threads
        self._run_seconds = run_seconds
        self._shortages = OutOfMemoryCounter()
        self._watchdog = Watchdog()
        # Told, on any thread, when the GPU is of no use any more to this process; perhaps more than once.
        self.on_lost: Callable[[DeviceLost], None] = lambda error: None
        # The GPU that kernels may use, whether or not onnxruntime can; and the driver's library.
        self.gpu = 0 if device == "auto" else gpu_of(device)
        self.library = library
        self.device: Device = "cpu"
        # The GPU that graphs run on.
        self._driver: driver.Driver | None = None
        if self.gpu is not None:
            try:
                self._driver = _usable_gpu(self.gpu, library)
            except driver.NoDevice as error:
                if device != "auto":
                    raise StartupError(f"--device {asked or device}: no usable GPU: {error}") from error
            else:
                self.device = "cuda" if device == "auto" else device

    @property
    def opened(self) -> driver.Driver | None:
        """The GPU that graphs run on; None: they run on the CPU."""
        return self._driver

    def lose(self, error: DeviceLost) -> None:
        """The GPU is of no use any more to this process."""
        self.on_lost(error)

    def open(
        self, graph: Graph | Path, *, on: Device | None = None, on_caller: bool = False, trial: Trial | None = None
    ) -> Session:
        """Load a graph; BundleError if onnxruntime refuses it or would run a node elsewhere than asked, OutOfMemory if
        it does not fit now, Overdue if that takes too long.

        graph: as it was read, or a file, beside which its data are. on_caller: on the CPU, compute on the thread that
        calls `run` and no other. trial: the load that this is part of, and all runs until `Session.loaded`.
        """
        gpu = gpu_of(on or self.device)
        options = ort.SessionOptions()
        # Not onnxruntime's one global pool: it allows no session without threads. Waiting threads cost nothing.
        options.intra_op_num_threads = 1 if on_caller else self._threads
        options.log_severity_level = _SILENT
        # Threads that spin for work steal the cores from the event loop and from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What it takes for its own format instead would be read by rules that nobody has checked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        source: bytes | Path
        if isinstance(graph, Graph):
            source = graph.content
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.data))
        else:
            source = graph
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            # Not session.disable_cpu_ep_fallback: it refuses the nodes that compute shapes as well.
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            providers = [(CUDA, {**_CUDA_OPTIONS, "device_id": str(gpu)}), *providers]
        trial = trial or Trial()
        here = None if gpu is None else self._driver
        current_gpu.enter(here)
        self._watchdog.watch(options, trial.end, _cancel_load)
        try:
            # enable_fallback: the Python class would otherwise retry on the CPU and hide the first error.
            session = ort.InferenceSession(source, options, providers=providers, enable_fallback=False)
        except Exception as error:  # onnxruntime raises a dozen types of its own
            if time.monotonic() >= trial.end:
                raise Overdue(f"loading {graph.name} went on for too long and was ended") from error
            if out_of_memory(error):
                raise OutOfMemory(f"{graph.name}: {brief(error)}", hopeless=self._shortages.note(error)) from error
            raise BundleError(graph.name, f"onnxruntime refuses it: {_refusal(error, graph)}") from error
        finally:
            self._watchdog.done(options)
        trial.steps += 1
        if gpu is not None and (strays := nodes_off_the_gpu(session)):
            raise BundleError(graph.name, f"{len(strays)} nodes would run on the CPU: {', '.join(strays[:5])}")
        arena = "cpu:0" if gpu is None else f"gpu:{gpu}"
        return Session(
            session,
            self._shortages,
            arena,
            self._watchdog,
            self._run_seconds,
            trial,
            self.lose,
            None if gpu is None else ("cuda", gpu),
            here,
        )


def runtimes(
    device: str, threads: int, *, run_seconds: float = math.inf, library: str = driver.LIBRARY
) -> list[Runtime]:
    """A runtime for each device that is asked for, as `--device` says it; StartupError if one cannot be used."""
    make = partial(Runtime, threads=threads, run_seconds=run_seconds, library=library, asked=device)
    if device != "cuda:all":
        return [make(name) for name in device.split(",")]
    first = make("cuda:0")
    assert first.opened is not None, "it is a GPU"
    return [first, *(make(f"cuda:{number}") for number in range(1, first.opened.count))]


class OutOfMemoryCounter:
    """How often a run did not fit into memory, by any of a runtime's sessions."""

    def __init__(self) -> None:
        self.times = 0

    def note(self, error: BaseException) -> bool:
        """Have every session give back what it can spare; unless somebody asked for more at once than there is of
        memory, whom that would not help. Whether it is so.
        """
        requested = requested_bytes(error)
        hopeless = requested is not None and requested > memory.total()
        if not hopeless:
            self.times += 1
        return hopeless


class Session:
    """A loaded graph.

    arena: where it computes, as onnxruntime calls that. run_seconds: how long a run may go on. trial: the load that its
    runs are part of, None once it serves. lost: told when the GPU is of no use any more. bound: the device, as
    onnxruntime calls it, and its number, on which tensors have buffers that are kept; None: arrays go in and out. gpu:
    the same, as the driver has it; None on the CPU.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        shortages: OutOfMemoryCounter | None = None,
        arena: str = "cpu:0",
        watchdog: Watchdog | None = None,
        run_seconds: float = math.inf,
        trial: Trial | None = None,
        lost: Callable[[DeviceLost], None] = lambda error: None,
        bound: tuple[str, int] | None = None,
        gpu: driver.Driver | None = None,
    ) -> None:
        self._session = session
        self._shortages = shortages or OutOfMemoryCounter()
        self._shortages_seen = self._shortages.times
        self._arena = arena
        self._watchdog = watchdog or Watchdog()
        self._run_seconds = run_seconds
        self._trial = trial
        self._lost = lost
        self._gpu = gpu
        # Of earlier runs, one for each thread that runs: to make one takes 3 µs.
        self._spare_options: list[ort.RunOptions] = []
        self.inputs = {i.name: (_DTYPES.get(i.type), _shape(i.shape)) for i in session.get_inputs()}
        self.outputs = {o.name: (_DTYPES.get(o.type), _shape(o.shape)) for o in session.get_outputs()}
        # Where a tensor of a size that the graph alone knows cannot be bound, none is.
        self._bound: BoundRuns | None = None
        if bound is not None and all(None not in shape[1:] for _, shape in self.outputs.values()):
            sizes = {name: (dtype, shape[1:]) for name, (dtype, shape) in self.outputs.items()}
            self._bound = BoundRuns(session, ort.OrtValue, bound, sizes)

    def loaded(self) -> None:
        """From now on every run has its own time."""
        self._trial = None

    def close(self) -> None:
        """Give back what it holds, once a run that goes on has ended, whoever still refers to it: an error that was
        raised to a caller, for one, refers to the lane that it passed. A second time it does nothing.
        """
        vars(self).pop("_session", None)
        self._bound = None

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """One run; arrays in by name, arrays out in the order of `outputs`. Releases the GIL.

        OutOfMemory if it did not fit, Overdue if it went on for too long, DeviceLost if the GPU is of no use any more,
        RuntimeError for what else onnxruntime raises. A run can be ended between two operators or turns of a loop.
        """
        shrink_arena = self._shortages_seen != self._shortages.times
        if shrink_arena:
            # Someone lacks memory: what the arena keeps of earlier runs, for later ones, goes back after this one.
            options, self._shortages_seen = _run_options(), self._shortages.times
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arena)
            if self._bound is not None:
                self._bound.clear()
        else:
            options = self._options()
        began = time.monotonic()
        trial = self._trial
        end = began + self._run_seconds if trial is None else trial.end
        self._watchdog.watch(options, end, _end_run)
        try:
            current_gpu.enter(self._gpu)
            if self._bound is None:
                arrays = bare_run.run(self._session, outputs, inputs, options)
            else:
                arrays = self._bound.run(outputs, inputs, options)
        except Exception as error:
            if options.terminate:
                raise Overdue(f"a run was ended after {time.monotonic() - began:.3g} s") from error
            if out_of_memory(error):
                raise OutOfMemory(f"out of memory: {brief(error)}", hopeless=self._shortages.note(error)) from error
            if device_lost(error) or isinstance(error, driver.CudaError):
                lost = DeviceLost(brief(error))
                self._lost(lost)
                raise lost from error
            raise RuntimeError(brief(error)) from error
        finally:
            self._watchdog.done(options)
        if trial is not None:
            trial.steps += 1
        # Later the watchdog might still be about to end it.
        if not shrink_arena and time.monotonic() < end:
            self._spare_options.append(options)
        return arrays

    def _options(self) -> ort.RunOptions:
        try:
            return self._spare_options.pop()
        except IndexError:
            return _run_options()


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _SILENT
    return options


def _end_run(options: ort.RunOptions) -> None:
    options.terminate = True


def _cancel_load(options: ort.SessionOptions) -> None:
    options.set_load_cancellation_flag(True)


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, naming the missing library; None if it can."""
    if CUDA not in ort.get_available_providers():
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


def _usable_gpu(index: int, library: str) -> driver.Driver:
    """A GPU that onnxruntime can use; NoDevice if there is none of that number, naming those that there are."""
    if problem := cuda_problem():
        raise driver.NoDevice(problem)
    gpu = driver.Driver(index, library)
    # Of its build. A driver takes what is of an older CUDA, or of its own whatever the minor version.
    wanted = getattr(ort, "cuda_version", "")
    if gpu.version // 1000 < int(wanted.partition(".")[0] or 0):
        raise driver.NoDevice(f"the driver is too old: onnxruntime is of CUDA {wanted}, and this is {gpu}")
    return gpu


def gpu_of(device: str) -> int | None:
    """The number of a device's GPU; None of the CPU."""
    kind, _, number = device.partition(":")
    return None if kind == "cpu" else int(number or 0)


def _preload_cuda() -> None:
    """Load the CUDA libraries that pip installed, without the messages that onnxruntime prints where there are none."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ort.preload_dlls()


def _shape(shape: Sequence[int | str | None]) -> tuple[int | None, ...]:
    return tuple(axis if isinstance(axis, int) else None for axis in shape)


def _refusal(error: Exception, graph: Graph | Path) -> str:
    """What onnxruntime says of a graph, in a line."""
    told = brief(error)
    if not isinstance(graph, Graph):
        return told
    # Our own folder means nothing to anybody.
    told = told.replace(f"{graph.data}/", "").replace(str(graph.data), "the bundle")
    if "external" not in told.lower():
        return told
    return f"{told}; a graph may keep data only in files of the manifest, inside of the bundle"
