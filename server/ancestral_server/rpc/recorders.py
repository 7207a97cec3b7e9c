"""The recorders of calls that are always there: counts, for Prometheus, and lines of the log."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import grpc
import structlog

from ancestral_server.engine.job import Job
from ancestral_server.errors import Infeasible, OutOfMemory, Overloaded, PermissionDenied, Unauthenticated
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc.recording import Call, CallRecorder, End, Headers, Method, Work
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.rpc.status import camel_case

log = structlog.get_logger()

# Refused before any work, or as there is no room for any: what comes by the thousand when it comes.
_REFUSALS = (Overloaded, OutOfMemory, Infeasible, Unauthenticated, PermissionDenied)
# A traceparent, as https://www.w3.org/TR/trace-context has it: version, trace, span, flags.
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*")


class CallMetrics(CallRecorder):
    """Counts calls by method and status, with their messages and seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._methods: dict[Method, MethodMetrics] = {}

    def serve(self, method: Method) -> None:
        self._methods[method] = self._metrics.method(method.kind, method.service, method.name)

    def begin(self, call: Call) -> None:
        self._methods[call.method].started += 1

    def received(self, call: Call) -> None:
        self._methods[call.method].received += 1

    def sent(self, call: Call) -> None:
        self._methods[call.method].sent += 1

    def ended(self, call: Call, end: End) -> None:
        method = self._methods[call.method]
        method.seconds.observe(end.seconds)
        # Nearly all calls go well.
        method.handled["OK" if end.code is grpc.StatusCode.OK else camel_case(end.code)] += 1


class FailureLog(CallRecorder):
    """Writes a line for each call that fails; refused calls, which come by the thousand, have a line for many."""

    def __init__(self, refusals: RefusalLog) -> None:
        self._refusals = refusals

    def failed(self, call: Call, end: End) -> None:
        if not _summed_up(self._refusals, call, end):
            log.info("call", **_line(call, end))


class CallLog(CallRecorder):
    """Writes a line for every call that fails, refused or not, and for a share of those that go well.

    ratio: that share; calls that are traced are always among them.
    """

    def __init__(self, refusals: RefusalLog, ratio: float) -> None:
        self._refusals = refusals
        self._ratio = ratio

    def arrived(self, call: Call, headers: Headers) -> None:
        # The caller's, which has it in its own log, whether or not anything is traced here.
        found = next((_TRACE.fullmatch(str(value)) for name, value in headers if name == "traceparent"), None)
        if found and not call.trace_id:
            call.trace_id = found[1]

    def begin(self, call: Call) -> None:
        call.work = Work()

    def asked(self, call: Call, job: Job) -> None:
        if call.work is not None:
            call.work.refused_images = job.rows // job.draws

    def admitted(self, call: Call, job: Job) -> None:
        if (work := call.work) is not None:
            work.images, work.refused_images = work.images + work.refused_images, 0

    def ran(self, call: Call, job: Job) -> None:
        self._worked(call, job, job.finished)

    def lost(self, call: Call, job: Job) -> None:
        self._worked(call, job, time.monotonic())

    def _worked(self, call: Call, job: Job, until: float) -> None:
        if (work := call.work) is not None:
            began = job.started or until
            work.queue_seconds += began - job.submitted
            work.compute_seconds += until - began
            work.batch_size = max(work.batch_size, job.batch_size)

    def failed(self, call: Call, end: End) -> None:
        _summed_up(self._refusals, call, end)

    def ended(self, call: Call, end: End) -> None:
        if end.code is not grpc.StatusCode.OK or call.trace is not None or random.random() < self._ratio:
            log.info("call", **_line(call, end))


def _summed_up(refusals: RefusalLog, call: Call, end: End) -> bool:
    """Whether a call was refused, which the line for many then tells."""
    error = end.error
    if error is None or not isinstance(error, _REFUSALS):
        return False
    refusals.add(error.reason, error.lane or call.method.path, end.details)
    return True


def _line(call: Call, end: End) -> dict[str, Any]:
    """What a line of the log says of a call: nothing that its images or its results hold."""
    said: dict[str, Any] = {"method": call.method.path, "code": end.code.name, "seconds": round(end.seconds, 6)}
    said["request_id"] = call.request_id
    if call.trace_id:
        said["trace_id"] = call.trace_id
    if call.visit is not None:
        said["caller"] = call.visit.caller
    if call.subject is not None:
        said |= call.subject._asdict()
    if (work := call.work) is not None and call.subject is not None:
        said |= {
            "images": work.images + work.refused_images,
            "queue_seconds": round(work.queue_seconds, 6),
            "compute_seconds": round(work.compute_seconds, 6),
            "batch_size": work.batch_size,
        }
    if call.peer:
        said["peer"] = call.peer
    if end.error is not None:
        said["reason"] = end.error.reason
    return said | {"details": end.details}


class CallerAccounts(CallRecorder):
    """Charges what a call takes to its caller."""

    def admitted(self, call: Call, job: Job) -> None:
        if call.visit is not None:
            call.visit.admitted(job)

    def ended(self, call: Call, end: End) -> None:
        if call.visit is not None:
            call.visit.leave()
