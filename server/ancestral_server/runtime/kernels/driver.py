"""NVIDIA's driver through ctypes: device memory, machine code, launches on one device.

NVIDIA's `cuda-bindings` would do the same with 50 MB more in every image of the server, for 27 functions whose names
and arguments the driver keeps for good; and they are called twice a row. ctypes lets go of the interpreter meanwhile.
"""

from __future__ import annotations

import ctypes
import uuid
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LIBRARY = "libcuda.so.1"
# CUresult and CUdevice are ints; handles and addresses are void pointers.
_SIGNATURES: dict[str, list[Any]] = {
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuModuleLoadDataEx": [POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)],
    "cuModuleUnload": [c_void_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuFuncSetAttribute": [c_void_p, c_int, c_int],
    "cuMemAlloc_v2": [POINTER(c_void_p), c_size_t],
    "cuMemFree_v2": [c_void_p],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemHostGetDevicePointer_v2": [POINTER(c_void_p), c_void_p, c_uint],
    "cuMemFreeHost": [c_void_p],
    "cuMemcpyHtoDAsync_v2": [c_void_p, c_void_p, c_size_t, c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamDestroy_v2": [c_void_p],
    "cuLaunchKernel": [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p],
}
# CUdevice_attribute: multiprocessors, the two numbers of the compute capability, the most shared memory of a block.
_MULTIPROCESSORS, _MAJOR, _MINOR, _SHARED = 16, 75, 76, 97
# CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_DYNAMIC_SHARED = 8
# CU_MEMHOSTALLOC_PORTABLE and _DEVICEMAP
_EVERYWHERE_AND_MAPPED = 1 | 2
# CU_STREAM_NON_BLOCKING: it does not wait for the default stream, nor that for it.
_NON_BLOCKING = 1
# CU_JIT_ERROR_LOG_BUFFER and _SIZE_BYTES: where the driver's compiler of PTX says what it does not like.
_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6
_LOG_BYTES = 1024
_OUT_OF_MEMORY = 2


class NoDevice(Exception):
    """There is no such device, or no driver for it; the text says which library or what there is."""


class CudaError(Exception):
    """A call of the driver failed. `told`: what it says of that in words, in a line."""

    def __init__(self, call: str, code: int, name: str, told: str = "") -> None:
        super().__init__(": ".join(filter(None, (f"{call}: {name} ({code})", told))))
        self.call, self.code, self.name = call, code, name
        self.out_of_memory = code == _OUT_OF_MEMORY


class Driver:
    """One device of a driver. NoDevice if it cannot be used. Every thread calls `enter` before anything else.

    library: what is loaded as the driver's; another one where a test stands in for it.
    """

    def __init__(self, index: int = 0, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise NoDevice(str(error)) from error
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise NoDevice(f"{library}: the driver is too old, it has no {name}") from error
            function.argtypes, function.restype = arguments, c_int
        try:
            self("cuInit", 0)
            names = [self._name(number) for number in range(self._int("cuDeviceGetCount"))]
            if index >= len(names):
                there = ", ".join(f"cuda:{number} ({name})" for number, name in enumerate(names)) or "none"
                raise NoDevice(f"there is no device {index}: the driver has {there}")
            self._device = self._int("cuDeviceGet", index)
            self._context = c_void_p()
            # The one that onnxruntime uses too: one is enough, and two could not share the device's time.
            self("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
            self.name = names[index]
            # How many devices the driver shows.
            self.count = len(names)
            # As 13000 for CUDA 13.0: the newest whose code the driver takes.
            self.version = self._int("cuDriverGetVersion")
            self.capability = self._attribute(_MAJOR), self._attribute(_MINOR)
            self.multiprocessors = self._attribute(_MULTIPROCESSORS)
            self.shared_bytes = self._attribute(_SHARED)
        except CudaError as error:
            raise NoDevice(str(error)) from error

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; CudaError unless it succeeds."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(code, byref(text))
            raise CudaError(name, code, (text.value or b"an unknown error").decode())

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name}, sm_{major}{minor}, driver of CUDA {self.version // 1000}.{self.version % 1000 // 10}"

    def _int(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self(name, byref(value), *arguments)
        return value.value

    def _attribute(self, number: int) -> int:
        return self._int("cuDeviceGetAttribute", number, self._device)

    def _name(self, number: int) -> str:
        text = ctypes.create_string_buffer(128)
        self("cuDeviceGetName", text, len(text), self._int("cuDeviceGet", number))
        return text.value.decode(errors="replace")

    def enter(self) -> None:
        """Have the calling thread's calls mean this device."""
        self("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        free, total = c_size_t(), c_size_t()
        self("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value


class Memory:
    """What one program holds of a device, to be given back together: buffers, code, streams."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._held: list[tuple[str, c_void_p]] = []

    def _hold(self, make: str, end: str, *arguments: Any) -> c_void_p:
        handle = c_void_p()
        self._driver(make, byref(handle), *arguments)
        self._held.append((end, handle))
        return handle

    def device(self, size: int) -> c_void_p:
        """The address of so many bytes of the device's."""
        # None at all is an error.
        return self._hold("cuMemAlloc_v2", "cuMemFree_v2", max(size, 1))

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], c_void_p]:
        """Page-locked memory of the host's as zeros, and its address for the device, which can read and write it."""
        kind = np.dtype(dtype)
        size = max(int(np.prod(shape)) * kind.itemsize, 1)
        address = self._hold("cuMemHostAlloc", "cuMemFreeHost", size, _EVERYWHERE_AND_MAPPED)
        mapped = c_void_p()
        self._driver("cuMemHostGetDevicePointer_v2", byref(mapped), address, 0)
        assert address.value is not None
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value))
        raw[:] = 0
        return raw[: int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape), mapped

    def stream(self) -> c_void_p:
        return self._hold("cuStreamCreate", "cuStreamDestroy_v2", _NON_BLOCKING)

    def function(self, code: bytes, entry: str, shared_bytes: int) -> c_void_p:
        """A kernel of machine code, for blocks that have so much dynamic shared memory."""
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options = (c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
        values = (c_void_p * 2)(ctypes.addressof(log), len(log))
        try:
            module = self._hold("cuModuleLoadDataEx", "cuModuleUnload", code, 2, options, values)
        except CudaError as error:
            told = " ".join(log.value.decode(errors="replace").split())
            raise CudaError(error.call, error.code, error.name, told) from None
        function = c_void_p()
        self._driver("cuModuleGetFunction", byref(function), module, entry.encode())
        self._driver("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared_bytes)
        return function

    def close(self) -> None:
        """Give everything back, what was taken last first. A second time it does nothing.

        Of a device that has failed nothing can be given back, and the process ends.
        """
        with suppress(CudaError):
            self._driver.enter()
        while self._held:
            end, handle = self._held.pop()
            with suppress(CudaError):
                if end == "cuStreamDestroy_v2":
                    self._driver("cuStreamSynchronize", handle)
                self._driver(end, handle)


def uuid_of(index: int, library: str = LIBRARY) -> str | None:
    """The UUID of a device, as NVIDIA's tools have it after "GPU-" or "MIG-"; None if there is no device, or no driver
    that tells it. Of the device nothing is taken, as a `Driver` takes a context.
    """
    device, raw = c_int(), (ctypes.c_uint8 * 16)()
    try:
        cuda = ctypes.CDLL(library)
        failed = (
            cuda.cuInit(c_uint(0))
            or cuda.cuDeviceGet(byref(device), c_int(index))
            # The second version: of a part of a GPU it is the part's own.
            or cuda.cuDeviceGetUuid_v2(raw, device)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else str(uuid.UUID(bytes=bytes(raw)))
