"""What onnxruntime's errors mean, and what they say in a line.

What:   knows by their words which errors are for want of memory, and how much was asked for, and which have cost the
        process its GPU; shortens what is told of CUDA's failures.
Why:    onnxruntime has no type of its own for want of memory. Of CUDA's failures it tells the signature of a C++
        template, twice, and the name of the machine.
Since:  1.31.
Costs:  words of onnxruntime, CUDA, cuDNN and cuBLAS that a later one may put otherwise: such an error would be
        answered as INTERNAL, and its rows not be tried again in parts.
Goes:   tests/server/runtime/test_onnxruntime_workarounds.py::
        test_want_of_memory_still_has_no_type_but_the_words_that_are_known
"""

from __future__ import annotations

import re

# Of onnxruntime's arena, of the C++ library, of CUDA, cuDNN and cuBLAS, in this order.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|smaller than requested bytes"
    r"|bad_alloc|bad allocation"
    r"|out of memory|cudaErrorMemoryAllocation"
    r"|CUDNN_STATUS_\w*ALLOC|CUBLAS_STATUS_ALLOC_FAILED|CUBLAS failure 3\b",
    re.IGNORECASE,
)
# How many bytes an arena was asked for.
_REQUESTED = re.compile(r"requested (?:buffer of size|bytes of) ?(\d+)")
# Errors after which CUDA refuses everything in this process: of memory (214), of links between GPUs (220), of hardware
# (226), of addresses (700, 716, 717), of time (702), of the context (709), of a kernel (710, 714, 715, 718, 719, 721),
# of another process by way of NVIDIA's MPS (810), of a device beside the GPU (911).
_DEVICE_LOST = re.compile(r"CUDA failure (?:214|220|226|70[029]|71[04-9]|721|810|911)\b")
_OF_CUDA = re.compile(r"\S*cuda_call\.cc:.*?(CU[A-Z]+ failure .*?) ; GPU=.*? ; expr=(.*)", re.DOTALL)


def out_of_memory(error: BaseException) -> bool:
    """Whether a run failed for want of memory, so that a smaller one may succeed."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def device_lost(error: BaseException) -> bool:
    """Whether a run has cost the process its GPU, so that nothing more can run there."""
    return _DEVICE_LOST.search(str(error)) is not None


def requested_bytes(error: BaseException) -> int | None:
    """How many bytes an error for want of memory says were asked for; None if it does not say."""
    found = _REQUESTED.search(str(error))
    return None if found is None else int(found[1])


def brief(error: BaseException) -> str:
    """What an error says, in a line."""
    told = _OF_CUDA.sub(r"\1: \2", str(error)).strip()
    return (told.splitlines() or [type(error).__name__])[0].rstrip("; ")
