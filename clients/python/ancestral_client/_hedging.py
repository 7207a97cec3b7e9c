"""A second attempt beside the first: a call that takes unusually long is asked for once more, most likely of another
replica, and the first answer is the one.

gRPC describes that in its service config (hedgingPolicy), and its core, which Python uses, does not do it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from ancestral_client._rpcs import Rpc
from ancestral_client._transport import Transport

_Reply = TypeVar("_Reply", bound=Message)

# Second attempts for each call, in the long run: where everything is slow, servers get a tenth more to do and not twice
# as much. And how many may come at once, as when one of several replicas stops to answer. As retryThrottling is used in
# the documents of gRPC's service config (tokenRatio 0.1, maxTokens 10).
SHARE = 0.1
BURST = 10.0
# Another replica may have what this one has not; anything else the other attempt would hear too.
_OF_ONE_REPLICA = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Hedging:
    """When calls of a client get a second attempt: after `seconds` without an answer; None: never."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._left = BURST
        self._lock = threading.Lock()  # a client may be shared between threads

    async def ask(
        self,
        transport: Transport,
        rpc: Rpc[Any, _Reply],
        request: Any,
        options: Callable[[], dict[str, Any]],
    ) -> _Reply:
        """The reply of a call, whichever attempt it is of. `options` are those of an attempt that begins now."""
        if self._seconds is None or not rpc.hedged:
            return await transport.ask(rpc, request, options())
        self._earn()
        calls = [transport.start(rpc, request, options())]
        failure: grpc.RpcError | None = None
        try:
            if not await transport.any_done(calls, self._seconds) and self._spend():
                calls.append(transport.start(rpc, request, options()))
            while calls:
                await transport.any_done(calls, math.inf)
                call = next(call for call in calls if call.done())
                calls.remove(call)
                try:
                    reply: _Reply = await transport.result(call)
                except grpc.RpcError as failed:
                    if failed.code() not in _OF_ONE_REPLICA:
                        raise
                    failure = failed
                else:
                    return reply
        finally:
            for call in calls:
                call.cancel()
        assert failure is not None, "there was an attempt"
        raise failure

    def _earn(self) -> None:
        with self._lock:
            self._left = min(BURST, self._left + SHARE)

    def _spend(self) -> bool:
        """Whether one more attempt may be made."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
        return True
