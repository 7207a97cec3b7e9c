"""The attempts of a call: which failures are tried again, when and for how long.

gRPC can retry by itself, but five times at most, and it tells only the last failure: not whether a server was there
before it, which decides whether waiting makes sense.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from ancestral_client import _arguments, errors, tracing

# What broke may be whole at once, or after a restart of some seconds; crowds are spread by the jitter.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_JITTER = (0.8, 1.2)
# A server that was never there is most likely not being restarted.
_BRIEF_SECONDS = 1.0


@dataclass(slots=True)
class Server:
    """What a client knows of its server."""

    address: str
    retry_seconds: float
    """How long it may be away or overloaded."""
    credentials: Callable[[], tuple[tuple[str, str], ...]] = tuple
    """Metadata by which it knows who calls."""
    met: bool = False
    """Whether it was ever there."""


class Attempts:
    """One request id, and one deadline `timeout` seconds from now, on the clock `now`.

    A `rolling` one is for the next answer: an attempt that got some before its time was up is followed by another.
    """

    def __init__(self, server: Server, timeout: float, now: Callable[[], float], *, rolling: bool = False) -> None:
        limit = _arguments.timeout_of(timeout)
        self._server = server
        self._timeout = math.inf if limit is None else limit
        self._rolling = rolling
        self._request_id = uuid.uuid4().hex  # ours, so that it is known even if no answer comes
        self._now = now
        self._ends = now() + self._timeout
        self._failing_since: float | None = None
        self._failures = 0
        self._any_answer = False

    def options(self) -> dict[str, Any]:
        """What goes with the next attempt."""
        self._any_answer = False
        remaining = self._timeout if self._rolling else max(self._ends - self._now(), 1e-3)
        metadata = (("x-request-id", self._request_id), *tracing.headers(), *self._server.credentials())
        return {"timeout": _arguments.timeout_of(remaining), "metadata": metadata}

    def answered(self) -> None:
        """Something came: what fails from now on fails anew."""
        self._server.met = self._any_answer = True
        self._failing_since, self._failures = None, 0

    def pause(self, failed: grpc.RpcError) -> float:
        """Seconds after which to try again; raises what there is to tell if that makes no sense."""
        error = errors.from_rpc(
            failed, address=self._server.address, timeout=self._timeout, request_id=self._request_id
        )
        if self._rolling and self._any_answer and isinstance(error, errors.DeadlineExceeded):
            return 0.0
        now = self._now()
        self._failing_since = self._failing_since or now
        pause: float = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE) * random.uniform(*_JITTER)
        if isinstance(error, errors.Overloaded):
            pause = max(pause, error.retry_after or 0.0)
        self._failures += 1
        ends = self._failing_since + self._timeout if self._rolling else self._ends
        if now + pause > min(self._failing_since + self._patience(error), ends):
            raise error from None
        return pause

    def _patience(self, error: errors.AncestralError) -> float:
        """Seconds for which an error is worth new attempts."""
        server = self._server
        match error:
            case errors.Overloaded(reason="QUEUE_FULL" | "QUOTA_EXCEEDED"):
                return server.retry_seconds
            case errors.Unavailable():
                server.met = server.met or error.connected
                # Its own words, other than that it stops, are about the model: that will not get better soon.
                gone = error.reason in ("", "SERVER_DRAINING", "STOPPING")
                return server.retry_seconds if gone and server.met else min(_BRIEF_SECONDS, server.retry_seconds)
        return -1.0
