"""onnxruntime tells nobody that it is used.

What:   sets ORT_DISABLE_TELEMETRY, unless it is set already, before onnxruntime is imported.
Why:    onnxruntime writes a device id and a database into the user's cache when it is imported; nothing that can be
        called afterwards prevents that.
Since:  1.31.
Costs:  nothing.
Goes:   tests/server/runtime/test_onnxruntime_workarounds.py::test_onnxruntime_still_leaves_traces_in_the_cache
"""

from __future__ import annotations

import os


def leave_out() -> None:
    """To be called before onnxruntime is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
