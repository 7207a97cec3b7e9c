"""A header that is no UTF-8 is not logged as an error.

What:   a filter of Python's logging leaves out what gRPC logs of bytes that it cannot decode.
Why:    gRPC logs an error with a traceback whenever such a header is looked at, twice for each call, and goes on with
        the bytes as Latin-1. Any caller could fill the log with what reads as a fault of the server.
Since:  1.85.
Costs:  nothing tells of such headers; their calls are answered, and counted, like others.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpc_still_logs_an_error_for_a_header_that_is_no_text
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("grpc._cython.cygrpc")


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's log tells of anything else."""
    return not str(record.msg).startswith("Invalid encoding on ")


def leave_out() -> None:
    """To be called once in a process; again does nothing."""
    LOGGER.addFilter(is_wanted)
