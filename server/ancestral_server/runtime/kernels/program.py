"""A raster role as a kernel on a GPU: all memory is taken when it is made, and a row is one launch.

Letters: P places for samples, B samples of a row, H, W, C image axes.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import DeviceLost
from ancestral_server.runtime.kernels.driver import CudaError, Driver, Memory
from ancestral_server.runtime.kernels.variants import NoKernel, pick
from ancestral_server.runtime.program import BY_ROW, Meaning, Painting, RasterProgram
from ancestral_server.runtime.watchdog import Watchdog

Array = NDArray[Any]
# What the kernel's parameters are, in which order: `Kernel` in bundle.proto.
CONVENTION = 1
ROW, LOG_LIKELIHOOD = bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_LOG_LIKELIHOOD


def _unheard(error: DeviceLost) -> None:
    """Nobody but the callers has to know."""


class KernelProgram(RasterProgram):
    """Paints rows of up to `most` samples by the variants given, ascending by samples. NoKernel if its memory is too
    much for the device.

    files: the contents of the kernel's files, by path. lost: told, on any thread and perhaps more than once, when the
    device is of no use any more. row_seconds: how long a row may take; longer, and the device counts as lost, since a
    kernel cannot be ended.
    """

    form = "kernel"
    overlaps = True

    def __init__(
        self,
        role: bundle_pb2.Role,
        manifest: bundle_pb2.Bundle,
        driver: Driver,
        variants: Sequence[bundle_pb2.KernelVariant],
        files: Mapping[str, bytes],
        most: int,
        *,
        lost: Callable[[DeviceLost], None] = _unheard,
        watchdog: Watchdog | None = None,
        row_seconds: float = np.inf,
    ) -> None:
        super().__init__(role, manifest)
        self.driver = driver
        self._variants = variants
        self._lost = lost
        self._watchdog = watchdog or Watchdog()
        self._row_seconds = row_seconds
        self._memory = Memory(driver)
        try:
            driver.enter()
            self._allocate(files, most)
        except CudaError as error:
            self.close()
            if not error.out_of_memory:
                raise NoKernel(f"{error} on {driver}") from error
            needed, free = self.needed_bytes(most), driver.free_bytes()
            raise NoKernel(
                f"the device's memory is too little: {needed:,} bytes for {most} samples (--slots), "
                f"{free:,} are free ({error})"
            ) from error

    @staticmethod
    def places(most: int) -> int:
        """P: while a row is painted those who take the places of its last samples have some of their own."""
        return 2 * most

    def needed_bytes(self, most: int) -> int:
        """Of the device's memory, code not counted in."""
        kernel, places = self.role.kernel, self.places(most)
        samples = kernel.state_bytes + sum(self._sample_bytes(tensor) for tensor in self.role.inputs)
        return places * samples + self._scratch_bytes(most) + self._weights_bytes

    def _sample_bytes(self, tensor: bundle_pb2.TensorSpec) -> int:
        return int(np.prod(self._shape(tensor, 1))) * DTYPES[tensor.dtype].itemsize

    def _shape(self, tensor: bundle_pb2.TensorSpec, places: int) -> tuple[int, ...]:
        """Of a tensor as the kernel has it: whole images where a graph has a row of them."""
        return (places, *self.image_shape) if tensor.meaning in (*BY_ROW, ROW) else (places, *tensor.shape)

    def _scratch_bytes(self, most: int) -> int:
        return max(-(-most // variant.samples) * variant.scratch_bytes for variant in self._variants)

    def _allocate(self, files: Mapping[str, bytes], most: int) -> None:
        kernel, memory, places = self.role.kernel, self._memory, self.places(most)
        weights = files[kernel.weights]
        self._weights_bytes = len(weights)
        self._functions = {
            variant.samples: memory.function(files[variant.code], variant.entry, variant.shared_bytes)
            for variant in self._variants
        }
        addresses = [memory.device(len(weights)), memory.device(places * kernel.state_bytes)]
        addresses.append(memory.device(self._scratch_bytes(most)))
        # Of each input the host's copy, page-locked so that it is copied while the device works, and the device's.
        self._inputs: dict[Meaning, tuple[Array, ctypes.c_void_p]] = {}
        for tensor in self.role.inputs:
            here, _ = memory.host(self._shape(tensor, places), DTYPES[tensor.dtype])
            there = memory.device(here.nbytes)
            self._inputs[tensor.meaning] = here, there
            addresses.append(there)
        # The kernel writes each value of these once and reads none: so they are the host's.
        self._outputs: dict[Meaning, Array] = {}
        for tensor in self.role.outputs:
            self._outputs[tensor.meaning], address = memory.host(self._shape(tensor, places), DTYPES[tensor.dtype])
            addresses.append(address)
        self._entries, address = memory.host((most, 2), np.int32)
        addresses.append(address)
        # Last, since they are given back first, and whatever goes on there has to end before its memory is.
        self._stream, self._copying = memory.stream(), memory.stream()
        self._count = ctypes.c_int32()
        values = [*addresses, self._count]
        self._parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        # What the parameters point to.
        self._values = values
        staging = np.frombuffer(weights, np.uint8)
        self._copy(addresses[0], staging.ctypes.data, staging.nbytes)
        for here, there in self._inputs.values():
            self._copy(there, here.ctypes.data, here.nbytes)
        driver = self.driver
        driver("cuStreamSynchronize", self._copying)

    def _copy(self, target: ctypes.c_void_p, source: int, size: int, offset: int = 0) -> None:
        if size:
            address = (target.value or 0) + offset
            self.driver("cuMemcpyHtoDAsync_v2", address, source + offset, size, self._copying)

    def close(self) -> None:
        """Give back what it holds of the device, once a row that goes on has ended."""
        self._inputs, self._outputs, self._entries = {}, {}, np.empty((0, 2), np.int32)
        self._memory.close()
        # A row that nobody has waited for has ended too, as when a lane is closed whose callers have left.
        self._watchdog.done(self)

    def painting(self, places: int) -> Painting:
        """All paintings share the one memory of the program: there is one at a time."""
        return KernelPainting(self, places)

    # ---- for its painting

    def put(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        """Copy the inputs of samples to their places on the device; see `Painting.place`."""
        together, stretches = span(places), _stretches(places)
        with self._calls():
            for meaning, (here, there) in self._inputs.items():
                if meaning == bundle_pb2.MEANING_GIVEN and meaning not in inputs:
                    # Read where another one says that it is known.
                    continue
                here[together] = inputs.get(meaning, 0)
                step = here.nbytes // len(here)
                for first, last in stretches:
                    self._copy(there, here.ctypes.data, (last + 1 - first) * step, first * step)

    def begin(self, places: Array, rows: Array) -> None:
        count = len(places)
        with self._calls():
            self._entries[:count, 0] = places
            self._entries[:count, 1] = rows
            self.driver("cuStreamSynchronize", self._copying)
            variant = pick(self._variants, count, self.driver.multiprocessors)
            self._count.value = count
            blocks = -(-count // variant.samples)
            self.driver(
                "cuLaunchKernel",
                self._functions[variant.samples],
                *(blocks, 1, 1),
                *(variant.threads, 1, 1),
                variant.shared_bytes,
                self._stream,
                self._parameters,
                None,
            )
        self._watchdog.watch(self, time.monotonic() + self._row_seconds, _overdue)

    def end(self, places: Array, rows: Array) -> tuple[Array, Array | None]:
        try:
            with self._calls():
                self.driver("cuStreamSynchronize", self._stream)
        finally:
            self._watchdog.done(self)
        likelihood = self._outputs.get(LOG_LIKELIHOOD)
        # Copies: the next row is painted into the same memory.
        return self._outputs[ROW][places, rows], None if likelihood is None else likelihood[places]

    def lose(self, problem: str) -> DeviceLost:
        """The device is of no use any more; the error for whoever waits."""
        error = DeviceLost(problem)
        self._lost(error)
        return error

    def _calls(self) -> _Calls:
        return _Calls(self)


class _Calls:
    """Around calls of the driver while it serves: one that fails has lost the device, for all of this process."""

    def __init__(self, program: KernelProgram) -> None:
        self._program = program

    def __enter__(self) -> None:
        try:
            self._program.driver.enter()
        except CudaError as error:
            raise self._program.lose(str(error)) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CudaError):
            raise self._program.lose(str(error)) from error


def _overdue(program: KernelProgram) -> None:
    program.lose("a row of a kernel does not end (--load-seconds)")


def span(places: Array) -> Array | slice:
    """Places as a slice where they are neighbours in order, which numpy fills several times as fast."""
    first = int(places[0])
    return slice(first, first + len(places)) if (places == np.arange(first, first + len(places))).all() else places


def _stretches(places: Array) -> list[tuple[int, int]]:
    """The first and the last of each stretch of neighbours, so that each is one copy."""
    ordered = np.sort(places)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    firsts, lasts = ordered[[0, *(breaks + 1)]], ordered[[*breaks, -1]]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


class KernelPainting:
    """See `Painting`. Samples stay where they are on the device: what moves is who is where."""

    def __init__(self, program: KernelProgram, places: int) -> None:
        self._program = program
        # By place, its slot on the device.
        self._slots = np.arange(places)
        self._row: tuple[Array, Array] | None = None

    def place(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        self._program.put(self._slots[places], inputs)

    def move(self, sources: Array, targets: Array, left: int) -> None:
        slots = self._slots
        slots[targets], slots[sources] = slots[sources], slots[targets]

    def reorder(self, order: Sequence[int]) -> None:
        self._slots[: len(order)] = self._slots[list(order)]

    def begin_row(self, rows: Array, sizes: Sequence[int]) -> None:
        slots = self._slots[: len(rows)].copy()
        self._program.begin(slots, rows)
        self._row = slots, rows

    def end_row(self) -> tuple[Array, Array | None]:
        assert self._row is not None, "a row was begun"
        (slots, rows), self._row = self._row, None
        return self._program.end(slots, rows)
