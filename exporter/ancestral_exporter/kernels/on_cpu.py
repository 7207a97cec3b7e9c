"""pixelcnn_row.cu compiled by g++ for the CPU, and launched as a GPU's driver would: by the convention of `Kernel`.

Letters: N slots, H, W, C image axes, B entries of a launch.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ancestral_exporter.errors import ExporterError
from ancestral_exporter.kernels.packing import Block, Packed
from ancestral_exporter.models.row_graph import Array

HERE = Path(__file__).parent
SOURCE = HERE / "pixelcnn_row.cu"
# No product and sum may become one operation that the source does not name. What glibc checks of jumps, where it was
# hardened, does not know of stacks of one's own.
# -O1: nets of tests run as fast as with -O2, and compile in two thirds of the time.
_FLAGS = [
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-fPIC",
    "-shared",
    "-DON_CPU",
    "-w",
    "-x",
    "c++",
]
_FLAGS += ["-march=native"]  # or fmaf would be a call into the library
_FLAGS += ["-fno-strict-aliasing"]  # shared memory holds floats, then integers


class NoCompiler(ExporterError):
    """There is no g++, or it does not compile: the message says which."""


def build(config: str, library: Path, source: Path = SOURCE) -> Path:
    """Compile the kernel of that config.h into a shared library; returns `library`.

    It has one function, `void launch(int blocks, int backwards, void **parameters)`: the parameters are those of
    cuLaunchKernel, and `backwards` has threads run in the other order. Raises NoCompiler.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoCompiler("no g++ here")
    with tempfile.TemporaryDirectory(prefix="ancestral-kernel-") as folder:
        (Path(folder) / "config.h").write_text(config)
        command = [compiler, *_FLAGS, "-I", folder, "-I", str(HERE), str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        raise NoCompiler(f"g++ does not compile the kernel: {lines[0]}")
    return library


class CpuKernel:
    """The kernel of one block size, ready to be launched. Only one launch at a time may run."""

    def __init__(self, packed: Packed, block: Block, source: Path = SOURCE) -> None:
        with tempfile.TemporaryDirectory(prefix="ancestral-kernel-") as folder:
            # Once it is loaded its file is not needed any more.
            library = build(packed.config(block), Path(folder) / "kernel.so", source)
            self._launch = ctypes.CDLL(str(library)).launch
        self._packed, self._block = packed, block

    def launch(self, arrays: Sequence[Array], entries: Array, *, backwards: bool = False) -> None:
        """arrays: weights, states and scratch, inputs, outputs, as the convention has them. entries [B,2] int32."""
        count = ctypes.c_int32(len(entries))
        arrays = [*arrays, entries]
        if not all(array.flags.c_contiguous for array in arrays):
            raise ValueError("the kernel takes packed arrays alone")
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        values = [*pointers, count]
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._launch(self._blocks(len(entries)), int(backwards), parameters)

    def paint(
        self, inputs: Sequence[Array], *, slots: Array | None = None, backwards: bool = False
    ) -> tuple[Array, Array]:
        """Images [N,H,W,C] uint8 and the log-likelihood [N] of their free pixels, painted row by row.

        inputs: the role's, whole: given, known and uniforms [N,H,W,C], temperature and label [N]. slots: in which slot
        each image is painted, a permutation; it changes no byte of the answers.
        """
        count, height = inputs[0].shape[:2]
        slots = np.arange(count, dtype=np.int32) if slots is None else slots.astype(np.int32)
        there = np.argsort(slots)
        fed = [np.ascontiguousarray(array[there]) for array in inputs]
        images, scores = np.zeros_like(fed[0]), np.zeros(count, np.float32)
        arrays = [self._packed.weights, self.states(count), self.scratch(count), *fed, images, scores]
        total = np.zeros(count, np.float32)
        for row in range(height):
            entries = np.stack([slots, np.full(count, row, np.int32)], axis=1)
            self.launch(arrays, entries, backwards=backwards)
            total += scores
        return images[slots], total[slots]

    def states(self, slots: int) -> Array:
        """States of so many slots. They are not cleared on a GPU: so here they are what no arithmetic survives."""
        return np.full((slots, self._packed.state_bytes // 4), np.nan, np.float32)

    def scratch(self, entries: int) -> Array:
        """Scratch for a launch of so many entries."""
        size = self._packed.scratch_bytes(self._block) // 4
        return np.full((self._blocks(entries), size), np.nan, np.float32)

    def _blocks(self, entries: int) -> int:
        return -(-entries // self._block.samples)
