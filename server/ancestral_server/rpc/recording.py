"""What becomes of a call, told to whoever records it. Metrics and the log do (`rpc.recorders`); tracing can be a third.

A call goes on under one `Call`, which `current` gives to whatever works for it, in whichever task.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from ancestral_server.engine.job import Job
from ancestral_server.errors import ServerError


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of ours. kind: "unary", "server_stream" or "bidi_stream"."""

    kind: str
    service: str
    name: str

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended. error: what it was refused or failed with; None for one that went well or whose caller left."""

    code: grpc.StatusCode
    seconds: float
    details: str = ""
    error: ServerError | None = None


class CallRecorder:
    """Is told what becomes of calls, on the event loop, and must be quick. Each method does nothing unless a recorder
    has one of its own: what it does not record it need not know.
    """

    def serve(self, method: Method) -> None:
        """A method will be served from now on."""

    def begin(self, call: Call) -> None:
        """A call has begun: its headers are here, and its handler runs."""

    def received(self, call: Call) -> None:
        """A message of the caller's was read."""

    def admitted(self, call: Call, job: Job) -> None:
        """A lane has taken a job of the call, of which a stream has many."""

    def ran(self, call: Call, job: Job) -> None:
        """A job of the call has its answer; `job` says how long it waited and ran, and in how large a batch."""

    def sent(self, call: Call) -> None:
        """A message was handed to gRPC."""

    def ended(self, call: Call, end: End) -> None:
        """The call has ended."""


class Recorders(CallRecorder):
    """Several recorders, told one after another."""

    def __init__(self, recorders: Sequence[CallRecorder]) -> None:
        self._recorders = tuple(recorders)

    def serve(self, method: Method) -> None:
        for recorder in self._recorders:
            recorder.serve(method)

    def begin(self, call: Call) -> None:
        for recorder in self._recorders:
            recorder.begin(call)

    def received(self, call: Call) -> None:
        for recorder in self._recorders:
            recorder.received(call)

    def admitted(self, call: Call, job: Job) -> None:
        for recorder in self._recorders:
            recorder.admitted(call, job)

    def ran(self, call: Call, job: Job) -> None:
        for recorder in self._recorders:
            recorder.ran(call, job)

    def sent(self, call: Call) -> None:
        for recorder in self._recorders:
            recorder.sent(call)

    def ended(self, call: Call, end: End) -> None:
        for recorder in self._recorders:
            recorder.ended(call, end)


@dataclass(slots=True, eq=False)
class Call:
    """A call that goes on."""

    method: Method
    # Its x-request-id, or one of ours.
    request_id: str
    recorder: CallRecorder
    # When it began, time.monotonic() seconds.
    began: float = 0.0


# What works for no call, as in a test of a part, has this one.
_NO_CALL = Call(Method("", "", ""), "", CallRecorder())
current: contextvars.ContextVar[Call] = contextvars.ContextVar("call", default=_NO_CALL)
