"""The process ends with its sockets open.

What:   ends the process at once, without gRPC's own stop and the end of the event loop, when all that were let in have
        been answered.
Why:    what still arrives must hear UNAVAILABLE, which clients try again elsewhere, and does when the sockets close
        with the process; gRPC's own stop tells it CANCELLED, which no client tries again.
Since:  1.85.
Costs:  nothing that Python does at the end of a process is done; nothing here needs it.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpc_is_the_one_that_was_looked_at
"""

from __future__ import annotations

import os
from typing import NoReturn


def leave(code: int = 0) -> NoReturn:
    """End the process, well unless the exit code says otherwise."""
    os._exit(code)
