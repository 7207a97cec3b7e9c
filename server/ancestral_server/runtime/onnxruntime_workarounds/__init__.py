"""What onnxruntime does not do, does wrongly or does dearly, and what this server does instead: one module each.

A module's text has a line for each question, as in `rpc.grpc_workarounds`; `tests/architecture/test_workarounds.py`
holds it by them.
"""
