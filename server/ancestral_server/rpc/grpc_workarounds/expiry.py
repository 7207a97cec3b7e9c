"""No status is sent to a caller whose deadline has passed.

What:   the handler waits until gRPC ends the call by itself, and sends a status only where it does not.
Why:    such a caller no longer listens, and gRPC ends the call, which cancels the handler. A status that is sent
        besides leaves some 80 bytes behind, each time and for good.
Since:  1.85.
Costs:  a handler that sleeps until gRPC has cancelled it, which it does within milliseconds.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpc_is_the_one_that_was_looked_at
"""

from __future__ import annotations

import asyncio

from ancestral_server.rpc.grpc_workarounds.reading import Context

# How late gRPC may be to end a call whose deadline has passed.
EXPIRY_SECONDS = 1.0


async def end(context: Context) -> None:
    """Let gRPC end the call, if its deadline has passed."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        await asyncio.sleep(EXPIRY_SECONDS)
