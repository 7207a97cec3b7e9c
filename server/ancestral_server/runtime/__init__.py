"""Bundles and onnxruntime: what a model is and how one run happens. Knows nothing of requests."""

from ancestral_server.runtime.onnxruntime_workarounds import telemetry

# Before anything imports onnxruntime.
telemetry.leave_out()
