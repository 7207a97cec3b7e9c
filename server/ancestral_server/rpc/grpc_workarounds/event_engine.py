"""gRPC reads sockets without its EventEngine.

What:   sets GRPC_EXPERIMENTS, unless it is set already, before gRPC is imported.
Why:    the EventEngine, the default since 1.80, reads sockets on threads of its own, which wake grpc.aio's thread,
        which wakes the event loop. As before it, grpc.aio's reads them itself: a call costs a tenth less (d948ac6).
Since:  1.80; looked at in 1.85.
Costs:  a name that a later gRPC may not know; it says so in a line of its log then, and goes on.
Goes:   tests/integration/test_door.py::test_grpcs_event_engine_still_wakes_a_thread_for_every_call
"""

from __future__ import annotations

import os


def leave_out() -> None:
    """To be called before gRPC is imported."""
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
