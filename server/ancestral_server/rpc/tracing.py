"""Traces of calls: a span for each, with children for where its time went. Only where `--otlp-endpoint` is set.

Children are made when a call has ended, from the points in time that the engine has anyway, so that nothing is measured
twice and together they are as long as their call. What is not traced costs a random number.
"""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import Event
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ancestral_server.engine.job import Job, RasterJob
from ancestral_server.engine.watch import Watch
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.collector import UNSET, Collector
from ancestral_server.rpc.recording import Call, CallRecorder, End, Headers, SomeCalls

_W3C = TraceContextTextMapPropagator()
# What says, among the headers, that a caller traces its call; and that with what others say of the same trace.
_PARENT = "traceparent"
_TRACE = (_PARENT, "tracestate")
# Jobs of a call that have spans, of a stream its first messages: a trace of thousands of spans is of no use to anybody.
MOST_JOBS = 64
# Ends that are the server's fault, by OpenTelemetry's conventions for RPC; the others are the caller's.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class JobTimes(NamedTuple):
    """What a job said of itself when it was last looked at: time.monotonic() seconds, 0 for what had not happened."""

    submitted: float
    started: float
    finished: float
    # When its caller heard that there is no answer.
    lost: float
    # Some of its rows were in no run yet.
    waits: bool
    rows: int
    batch_size: int
    # Its images are painted row by row, by runs that are nobody's own.
    paints: bool

    @staticmethod
    def of(job: Job, lost: float = 0.0) -> JobTimes:
        return JobTimes(
            job.submitted,
            job.started,
            job.finished,
            lost,
            job.waiting > 0,
            job.rows,
            job.batch_size,
            isinstance(job, RasterJob),
        )


class Stage(NamedTuple):
    """A part of a call's time, time.monotonic() seconds."""

    name: str
    began: float
    ended: float
    attributes: Mapping[str, int] = MappingProxyType({})
    # The span of a batch links to those of its calls.
    company: Sequence[Hashable] = ()


def stages(jobs: Mapping[Watch, JobTimes], began: float, ended: float, *, left_out: int = 0) -> Iterator[Stage]:
    """Where the time of a call went, from its beginning to its end.

    read: its message is read and checked. queue: a job waits for a run, or for a slot. batch: the rows of all its calls
    are put together. run: the graph runs. rows: images are painted. reply: what came of it is written and sent.
    Of jobs that come one after another the stages are the whole time of the call; those of a stream's messages overlap.
    left_out: how many further jobs there were, of which nothing is known.
    """
    at = began
    for watch, times in jobs.items():
        if times.submitted > at:
            yield Stage("read" if at == began else "reply", at, times.submitted)
        for stage in _of_job(watch, times, ended):
            yield stage
            at = max(at, stage.ended)
    if jobs and not left_out:
        yield Stage("reply", at, max(at, ended))


def _of_job(watch: Watch, times: JobTimes, ended: float) -> Iterator[Stage]:
    over = times.finished or times.lost or ended
    if times.paints:
        yield Stage("queue", times.submitted, times.started or over)
        if times.started:
            size = {"ancestral.images": times.rows, "ancestral.batch.rows": times.batch_size}
            yield Stage("rows", times.started, over, size)
        return
    at = times.submitted
    for number, run in enumerate(sorted(watch.runs, key=lambda run: run.began)):
        # What several workers run at a time does not wait in between.
        if not number or run.began > at:
            yield Stage("queue", at, run.began)
        size = {
            "ancestral.batch.rows": run.rows,
            "ancestral.batch.size": run.size,
            "ancestral.batch.calls": run.requests,
        }
        yield Stage("batch", run.began, run.gathered, size, run.company)
        yield Stage("run", run.gathered, run.ended, size)
        at = max(at, run.ended)
    if times.finished > at:
        # Runs that are not told of singly.
        yield Stage("run", at, times.finished)
    elif not times.finished and times.waits:
        # The job was given up while it waited, or waited on.
        yield Stage("queue", at, over)


@dataclass(slots=True, eq=False)
class CallTrace:
    """A call that was chosen, below a span of its caller's or none. Spans are on the clock of the day, which may be set
    while a call goes on.
    """

    parent: SpanContext | None
    span: SpanContext
    # Nanoseconds from time.monotonic() to the epoch.
    epoch: int = 0
    jobs: dict[Watch, JobTimes] = field(default_factory=dict)
    left_out: int = 0
    messages: int = 0
    # Of a stream that has sent one, when it sent the first, in nanoseconds of the epoch.
    first_message: int = 0

    def at(self, seconds: float) -> int:
        """A point in time.monotonic() seconds, in nanoseconds of the epoch."""
        return self.epoch + int(seconds * 1e9)


class Tracing(SomeCalls):
    """Makes spans of calls that their callers trace, and of a share of those that bring no trace."""

    def __init__(self, collector: Collector, ratio: float, metrics: Metrics) -> None:
        self._collector = collector
        self._ratio = ratio
        self._metrics = metrics

    def close(self, seconds: float) -> None:
        """Bring what waits to the collector, for so long at most; blocks."""
        self._collector.close(seconds)

    def choose(self, with_it: CallRecorder, call: Call, headers: Headers) -> None:
        # A loop and a random number: nearly every call pays for this, and for nothing else here.
        parent = None
        for name, _ in headers:
            if name == _PARENT:
                parent = _brought(headers)
        if random.random() < self._ratio if parent is None else parent.trace_flags.sampled:
            call.trace = CallTrace(parent, self._collector.below(parent))
            call.recorder = with_it

    def begin(self, call: Call) -> None:
        traced: CallTrace = call.trace
        traced.epoch = time.time_ns() - time.monotonic_ns()
        call.trace_id = trace.format_trace_id(traced.span.trace_id)

    def asked(self, call: Call, job: Job) -> None:
        traced: CallTrace = call.trace
        if len(traced.jobs) < MOST_JOBS:
            job.watch = Watch(traced.span)

    def admitted(self, call: Call, job: Job) -> None:
        if job.watch is None:
            call.trace.left_out += 1
        self._look(call, job)

    def ran(self, call: Call, job: Job) -> None:
        self._look(call, job)

    def lost(self, call: Call, job: Job) -> None:
        self._look(call, job, time.monotonic())

    def _look(self, call: Call, job: Job, lost: float = 0.0) -> None:
        """Remember what a job says now, and not the job, which holds images."""
        if job.watch is not None:
            call.trace.jobs[job.watch] = JobTimes.of(job, lost)

    def sent(self, call: Call) -> None:
        traced: CallTrace = call.trace
        if call.method.kind != "unary":
            traced.first_message = traced.first_message or traced.at(time.monotonic())
            traced.messages += 1

    def ended(self, call: Call, end: End) -> None:
        traced: CallTrace = call.trace
        ended = call.began + end.seconds
        for stage in stages(traced.jobs, call.began, ended, left_out=traced.left_out):
            linked = {each.span_id: each for each in stage.company if isinstance(each, SpanContext)}.values()
            self._collector.add(
                stage.name,
                self._collector.below(traced.span),
                traced.span,
                traced.at(stage.began),
                traced.at(stage.ended),
                stage.attributes,
                links=linked,
            )
        method = call.method
        self._collector.add(
            f"{method.service}/{method.name}",
            traced.span,
            traced.parent,
            traced.at(call.began),
            traced.at(ended),
            _attributes(call, end, traced),
            kind=SpanKind.SERVER,
            events=[Event("first message", {}, traced.first_message)] if traced.first_message else (),
            status=Status(StatusCode.ERROR, end.details) if end.code in _FAULTS else UNSET,
        )
        self._show(call, end, traced)

    def _show(self, call: Call, end: End, traced: CallTrace) -> None:
        """Have the histograms of what took so long show this trace."""
        now, method = time.time(), call.method
        self._metrics.method(method.kind, method.service, method.name).seconds.show(end.seconds, call.trace_id, now)
        lane = None if call.subject is None else self._metrics.lanes.shown(*call.subject)
        if lane is None:
            return
        for submitted, started, finished, *_ in traced.jobs.values():
            if finished:
                lane.queue_seconds.show(started - submitted, call.trace_id, now)
                lane.compute_seconds.show(finished - started, call.trace_id, now)
                lane.request_seconds.show((started - submitted) + (finished - started), call.trace_id, now)


def _brought(headers: Headers) -> SpanContext | None:
    """The span that a caller's headers name; None where they name none, whatever else they hold."""
    found = _W3C.extract({name: str(value) for name, value in headers if name in _TRACE})
    span = trace.get_current_span(found).get_span_context()
    return span if span.is_valid else None


def _attributes(call: Call, end: End, traced: CallTrace) -> dict[str, Any]:
    """What the span of a call says when it has ended; nothing of its images."""
    said: dict[str, Any] = {
        "rpc.system": "grpc",
        "rpc.service": call.method.service,
        "rpc.method": call.method.name,
        "ancestral.request_id": call.request_id,
        "rpc.grpc.status_code": end.code.value[0],
    }
    if call.peer:
        said["ancestral.peer"] = call.peer
    if call.visit is not None:
        # The name in the file of callers; nothing by which somebody could call.
        said["ancestral.caller"] = call.visit.caller
    if call.subject is not None:
        said |= {f"ancestral.{name}": value for name, value in call.subject._asdict().items()}
    if traced.jobs:
        said["ancestral.rows"] = sum(times.rows for times in traced.jobs.values())
        said["ancestral.batch.rows"] = max(times.batch_size for times in traced.jobs.values())
    if traced.left_out:
        said["ancestral.requests_left_out"] = traced.left_out
    if call.method.kind != "unary":
        said["ancestral.messages_sent"] = traced.messages
    if end.error is not None:
        said["error.type"] = end.error.reason
    return said
