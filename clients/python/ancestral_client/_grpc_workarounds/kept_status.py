"""The status by which a server ended a stream is kept, although the client was still writing.

What:   a stand-in for the part of a call of grpc.aio that is gRPC's core: a write that the core began, and that failed
        since the call had ended, sets no status. The core gives that of the server, which has come or is on its way.
Why:    such a write makes grpc.aio set INTERNAL, "Internal error from Core", in place of what the server said
        (grpc/grpc#36066): of 200 streams that were refused at once, 195. Who is refused would hear of a fault of the
        server, and what is worth another attempt would get none.
Since:  1.85.
Costs:  an attribute more on the way of each message. A write that the core does not even begin still sets INTERNAL: no
        other status need follow (grpc/grpc#34148). Where grpc.aio has another inside, a call is left as it is.
Goes:   tests/clients/python/test_grpc_workarounds.py::test_grpc_is_the_one_that_was_looked_at
"""

from __future__ import annotations

from typing import Any

# grpc.aio's name for the core's part of a call; what it says of a write that the core refused to begin.
_PART = "_cython_call"
_NOT_BEGUN = "start_batch"


class _Core:
    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, said: str) -> None:
        if _NOT_BEGUN in said and not self._call.done():
            self._call.set_internal_error(said)


def kept(call: Any) -> Any:
    """A call of grpc.aio that takes a stream and was just begun, so that it has written nothing yet."""
    core = getattr(call, _PART, None)
    if hasattr(core, "set_internal_error"):
        setattr(call, _PART, _Core(core))
    return call
