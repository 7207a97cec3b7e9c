"""What becomes of a call, told to whoever records it: metrics and the log (`rpc.recorders`), traces (`rpc.tracing`).

A call goes on under one `Call`, which `current` gives to whatever works for it, in whichever task.
"""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc

from ancestral_server.engine.job import Job
from ancestral_server.errors import ServerError
from ancestral_server.rpc.door import Visit

# As gRPC has them, names in lower case.
Headers: TypeAlias = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of ours. kind: "unary", "server_stream" or "bidi_stream". guarded: its calls pass the door."""

    kind: str
    service: str
    name: str
    guarded: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


class Subject(NamedTuple):
    """What a call is about: a role of a model version."""

    model: str
    version: int
    role: str


class End(NamedTuple):
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

    def arrived(self, call: Call, headers: Headers) -> None:
        """The headers of a call are here: it is about to begin."""

    def begin(self, call: Call) -> None:
        """A call has begun: its handler runs."""

    def received(self, call: Call) -> None:
        """A message of the caller's was read."""

    def asked(self, call: Call, job: Job) -> None:
        """A job of the call is about to be handed to a lane, which may refuse it; it can still be watched."""

    def admitted(self, call: Call, job: Job) -> None:
        """A lane has taken a job of the call, of which a stream has many; a short one may have run meanwhile."""

    def ran(self, call: Call, job: Job) -> None:
        """A job of the call has its answer; `job` says how long it waited and ran, and in how large a batch."""

    def lost(self, call: Call, job: Job) -> None:
        """A job that was admitted has no answer: it expired or failed, or its caller left."""

    def sent(self, call: Call) -> None:
        """A message was handed to gRPC."""

    def failed(self, call: Call, end: End) -> None:
        """The call is about to end otherwise than well."""

    def ended(self, call: Call, end: End) -> None:
        """The call has ended, well or not."""


class SomeCalls(CallRecorder, ABC):
    """A recorder of those calls that it chooses when they arrive. Of the others it is told nothing, and they do not pay
    for it.
    """

    @abstractmethod
    def choose(self, with_it: CallRecorder, call: Call, headers: Headers) -> None:
        """The headers of a call are here: have `with_it` record it from now on, if it is to be told of."""


EVENTS = ("serve", "arrived", "begin", "received", "asked", "admitted", "ran", "lost", "sent", "failed", "ended")


class Recorders(CallRecorder):
    """Several recorders, told one after another; of each event only those that record it.

    some: one more, before them, of the calls that it chooses.
    """

    def __init__(self, recorders: Sequence[CallRecorder], some: SomeCalls | None = None) -> None:
        for event in EVENTS:
            nothing = getattr(CallRecorder, event)
            tell = [getattr(each, event) for each in recorders if getattr(type(each), event) is not nothing]
            if event == "arrived" and some is not None:
                tell.insert(0, partial(some.choose, Recorders([some, *recorders])))
            if tell:
                # Most events have one recorder, which is told without anything in between.
                setattr(self, event, tell[0] if len(tell) == 1 else partial(_tell_all, tell))


def _tell_all(recorders: Sequence[Callable[..., None]], *event: Any) -> None:
    for tell in recorders:
        tell(*event)


@dataclass(slots=True)
class Work:
    """What was done for a call; of a stream the sums of its messages, several of which may be worked on at a time."""

    images: int = 0
    # Images of the job that a lane was asked for last and has not admitted.
    refused_images: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    # Images in the largest run that the call had a part in.
    batch_size: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """A call that goes on."""

    method: Method
    # Its x-request-id, or one of ours.
    request_id: str
    # Whoever is told of it, from `arrived` on.
    recorder: CallRecorder
    # When it began, time.monotonic() seconds.
    began: float = 0.0
    # Known once its first message was read and found to name a role that is served.
    subject: Subject | None = None
    # Of one that somebody will tell of in detail: who calls, as gRPC has it ("ipv4:10.0.0.7:40112"), and what was done.
    peer: str = ""
    work: Work | None = None
    # Of one that is traced, what the tracer remembers of it; and whose trace it is part of, in hexadecimal digits.
    trace: Any = None
    trace_id: str = ""
    # Of a guarded method: the header of that name; and, once the call was let in, what it takes of its caller's.
    authorization: str | None = None
    visit: Visit | None = None


# What works for no call, as in a test of a part, has this one.
_NO_CALL = Call(Method("", "", ""), "", CallRecorder())
current: contextvars.ContextVar[Call] = contextvars.ContextVar("call", default=_NO_CALL)
