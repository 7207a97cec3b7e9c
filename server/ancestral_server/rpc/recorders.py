"""The recorders of calls that there are: counts, for Prometheus, and lines of the log."""

from __future__ import annotations

import grpc
import structlog

from ancestral_server.engine.job import Job
from ancestral_server.errors import Infeasible, OutOfMemory, Overloaded, PermissionDenied, Unauthenticated
from ancestral_server.metrics import MethodMetrics, Metrics
from ancestral_server.rpc.recording import Call, CallRecorder, End, Method
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.rpc.status import camel_case

log = structlog.get_logger()

# Refused before any work, or as there is no room for any: what comes by the thousand when it comes.
_REFUSALS = (Overloaded, OutOfMemory, Infeasible, Unauthenticated, PermissionDenied)


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


class CallLog(CallRecorder):
    """Writes a line for each call that fails, and with `--log-calls` for every one; refused calls, which come by the
    thousand, have a line for many.
    """

    def __init__(self, refusals: RefusalLog, *, all_calls: bool) -> None:
        self._refusals = refusals
        self._all_calls = all_calls

    def ended(self, call: Call, end: End) -> None:
        refused = isinstance(end.error, _REFUSALS)
        if refused and end.error is not None:
            self._refusals.add(end.error.reason, end.error.lane or call.method.path, end.details)
        if self._all_calls or not (refused or end.code is grpc.StatusCode.OK):
            log.info(
                "call",
                method=call.method.path,
                code=end.code.name,
                seconds=round(end.seconds, 6),
                request_id=call.request_id,
                details=end.details,
            )


class CallerAccounts(CallRecorder):
    """Charges what a call takes to its caller."""

    def admitted(self, call: Call, job: Job) -> None:
        if call.visit is not None:
            call.visit.admitted(job)

    def ran(self, call: Call, job: Job) -> None:
        if call.visit is not None:
            call.visit.ran(job)

    def ended(self, call: Call, end: End) -> None:
        if call.visit is not None:
            call.visit.leave()
