"""onnxruntime works on the GPU that the calling thread is on, whichever a session was made for.

What:   has a thread be on a session's GPU before it opens the session, and before each run.
Why:    onnxruntime tries out memory when a session is opened, and copies inputs to buffers that are bound, on the
        thread's GPU (`CreateExecutionProviderFactory` and `cudaMemcpy_HostToDevice` in cuda_provider_factory.cc). That
        is the first one unless somebody has said otherwise, where it takes hundreds of MB that are not its own, and
        fails where another process has them.
Since:  1.31.
Costs:  a call of the driver for each run, 0.4 µs (measured with a stand-in for it).
Goes:   tests/server/runtime/test_onnxruntime_workarounds.py::test_onnxruntime_is_the_one_that_was_looked_at
"""

from __future__ import annotations

from ancestral_server.runtime.kernels.driver import Driver


def enter(gpu: Driver | None) -> None:
    """What the calling thread does next is done on this GPU, if it is one. CudaError if that has failed."""
    if gpu is not None:
        gpu.enter()
