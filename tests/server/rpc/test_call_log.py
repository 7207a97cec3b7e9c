"""The line of a call in the log: what it asked for, where its time went, whatever became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from ancestral_server.engine.job import Job
from ancestral_server.errors import Infeasible, InvalidArgument
from ancestral_server.rpc import recorders
from ancestral_server.rpc.recorders import CallLog, FailureLog
from ancestral_server.rpc.recording import Call, CallRecorder, End, Method, Subject
from ancestral_server.rpc.refusals import RefusalLog

METHOD = Method("unary", "a.Service", "Score")
WELL = End(grpc.StatusCode.OK, 2.0)
_LOOP = asyncio.new_event_loop()
_LOOP.close()


def logged(
    recorder: CallRecorder, end: End, *jobs: Job, lost: bool = False, **headers: str
) -> Mapping[str, Any] | None:
    """The line of a call with these jobs, of which one that was not admitted has no rows taken."""
    call = Call(METHOD, "mine", recorder, subject=Subject("m", 1, "score"))
    with capture_logs() as lines:
        recorder.arrived(call, tuple(headers.items()))
        recorder.begin(call)
        for job in jobs:
            recorder.asked(call, job)
            if job.taken:
                recorder.admitted(call, job)
                (recorder.lost if lost else recorder.ran)(call, job)
        if end.error is not None:
            recorder.failed(call, end)
        recorder.ended(call, end)
    return next(iter(lines), None)


def job(rows: int, taken: int = 1, started: float = 0.0, finished: float = 0.0) -> Job:
    made = Job(rows, _LOOP.create_future(), taken=taken, draws=2, batch_size=5, submitted=1.0)
    made.started, made.finished = started, finished
    return made


class Counted(RefusalLog):
    """Refusals that are counted only."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def add(self, reason: str, lane: str, details: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize(
    ("jobs", "lost", "end", "expected"),
    [
        pytest.param([job(6, started=2.0, finished=5.0)], False, WELL, (3, 1.0, 3.0, 5), id="well"),
        pytest.param([job(6, started=2.0, finished=5.0)] * 2, False, WELL, (6, 2.0, 6.0, 5), id="a stream"),
        pytest.param([job(6, started=2.0)], True, WELL, (3, 1.0, 7.0, 5), id="left at 9"),
        pytest.param([job(6)], True, WELL, (3, 8.0, 0.0, 5), id="expired in the queue at 9"),
        pytest.param([job(6, taken=0)] * 3, False, WELL, (3, 0.0, 0.0, 0), id="refused, and tried again"),
    ],
)
def test_a_line_says_what_was_asked_and_where_the_time_went(
    jobs: list[Job], lost: bool, end: End, expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "time", SimpleNamespace(monotonic=lambda: 9.0))
    line = logged(CallLog(Counted(), 1.0), end, *jobs, lost=lost)
    assert line is not None
    assert tuple(line[name] for name in ("images", "queue_seconds", "compute_seconds", "batch_size")) == expected
    assert (line["model"], line["version"], line["role"], line["request_id"]) == ("m", 1, "score", "mine")


@pytest.mark.parametrize(
    ("parent", "trace_id"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-00", "ab" * 16),
        (f"cc-{'ab' * 16}-{'cd' * 8}-00-what comes next", "ab" * 16),
        (f"00-{'0' * 32}-{'cd' * 8}-01", None),
        (f"00-{'ab' * 16}-{'0' * 16}-01", None),
        (f"ff-{'ab' * 16}-{'cd' * 8}-01", None),
        (f"00-{'AB' * 16}-{'cd' * 8}-01", None),
        ("", None),
    ],
)
def test_a_line_names_the_callers_trace(parent: str, trace_id: str | None) -> None:
    line = logged(CallLog(Counted(), 1.0), WELL, traceparent=parent)
    assert line is not None
    assert line.get("trace_id") == trace_id


def test_who_is_refused_is_counted_and_has_a_line_only_where_every_call_has() -> None:
    refused = End(grpc.StatusCode.DEADLINE_EXCEEDED, 1.0, "too late", Infeasible("too late", "m:1 score"))
    wrong = End(grpc.StatusCode.INVALID_ARGUMENT, 1.0, "wrong", InvalidArgument("images", "wrong"))
    counted = Counted()
    for recorder, of_the_refused in ((FailureLog(counted), None), (CallLog(counted, 0.0), "DEADLINE_INFEASIBLE")):
        lines = [logged(recorder, end) for end in (WELL, refused, wrong)]
        assert [line and line["reason"] for line in lines] == [None, of_the_refused, "INVALID_ARGUMENT"]
    assert counted.reasons == ["DEADLINE_INFEASIBLE"] * 2
