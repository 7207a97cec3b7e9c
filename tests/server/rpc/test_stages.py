"""Where the time of a traced call went: stages without a collector or a clock."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from opentelemetry.trace import SpanContext

from ancestral_server.access import Meter, Quota
from ancestral_server.engine.watch import MOST_RUNS, Run, Watch
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.door import Visit
from ancestral_server.rpc.recording import Call, CallRecorder, End, Method
from ancestral_server.rpc.tracing import CallTrace, JobTimes, _attributes, stages


def run(began: float, gathered: float, ended: float) -> Run:
    return Run(began, gathered, ended, rows=3, size=4, requests=2, company=())


def times(
    submitted: float, started: float, finished: float, *, lost: float = 0.0, waits: bool = False, paints: bool = False
) -> JobTimes:
    return JobTimes(submitted, started, finished, lost, waits, 3, 3, paints)


@pytest.mark.parametrize(
    ("job", "runs", "expected"),
    [
        pytest.param(times(1, 2, 4), [run(2, 3, 4)], "read 0-1 queue 1-2 batch 2-3 run 3-4 reply 4-9", id="one run"),
        pytest.param(
            times(1, 2, 8),
            [run(2, 3, 4), run(6, 7, 8)],
            "read 0-1 queue 1-2 batch 2-3 run 3-4 queue 4-6 batch 6-7 run 7-8 reply 8-9",
            id="two runs",
        ),
        pytest.param(
            times(1, 2, 7),
            [run(3, 4, 7), run(2, 3, 5)],
            "read 0-1 queue 1-2 batch 2-3 run 3-5 batch 3-4 run 4-7 reply 7-9",
            id="two workers, told in the order in which they end",
        ),
        pytest.param(times(1, 2, 6, paints=True), [], "read 0-1 queue 1-2 rows 2-6 reply 6-9", id="painted"),
        pytest.param(times(1, 0, 0, lost=8, waits=True), [], "read 0-1 queue 1-8 reply 8-9", id="expired in the queue"),
        pytest.param(
            times(1, 0, 0, lost=8, waits=True, paints=True), [], "read 0-1 queue 1-8 reply 8-9", id="expired, no slot"
        ),
        pytest.param(
            times(1, 2, 0, lost=8, paints=True), [], "read 0-1 queue 1-2 rows 2-8 reply 8-9", id="left while painted"
        ),
        pytest.param(
            times(1, 2, 0, lost=5),
            [run(2, 3, 4)],
            "read 0-1 queue 1-2 batch 2-3 run 3-4 reply 4-9",
            id="its run failed",
        ),
        pytest.param(
            times(1, 2, 0, lost=8, waits=True),
            [run(2, 3, 4)],
            "read 0-1 queue 1-2 batch 2-3 run 3-4 queue 4-8 reply 8-9",
            id="expired between two runs",
        ),
        pytest.param(times(1, 0, 0, waits=True), [], "read 0-1 queue 1-9 reply 9-9", id="nobody said"),
    ],
)
def test_stages_of_a_call(job: JobTimes, runs: Sequence[Run], expected: str) -> None:
    found = stages({Watch("caller", list(runs)): job}, 0, 9)
    assert " ".join(f"{stage.name} {stage.began:g}-{stage.ended:g}" for stage in found) == expected


def test_jobs_one_after_another_fill_the_time_of_their_call() -> None:
    jobs = {Watch("caller", [run(at + 1, at + 2, at + 3)]): times(at, at + 1, at + 3) for at in (1, 5)}
    found = list(stages(jobs, 0, 9))
    assert [stage.name for stage in found] == ["read", *("queue", "batch", "run", "reply") * 2]
    assert sum(stage.ended - stage.began for stage in found) == 9


def test_a_call_without_a_job_has_no_stages_and_one_with_more_than_are_known_no_end() -> None:
    assert not list(stages({}, 0, 9))
    jobs = {Watch("caller", [run(2, 3, 4)]): times(1, 2, 4)}
    assert [stage.name for stage in stages(jobs, 0, 9, left_out=1)] == ["read", "queue", "batch", "run"]


def test_runs_that_are_too_many_to_be_told_singly_are_told_as_one() -> None:
    watch = Watch("caller")
    for at in range(2, 2 + 2 * MOST_RUNS):
        watch.ran(run(at, at, at + 1))
    found = list(stages({watch: times(1, 2, 2 + 2 * MOST_RUNS)}, 0, 100))
    assert [(stage.name, stage.began, stage.ended) for stage in found[-2:]] == [
        ("run", 2 + MOST_RUNS, 2 + 2 * MOST_RUNS),
        ("reply", 2 + 2 * MOST_RUNS, 100),
    ]


def test_a_span_names_who_calls_and_no_more_of_them() -> None:
    end = End(grpc.StatusCode.OK, 0.1)
    trace = CallTrace(None, SpanContext(1, 1, is_remote=False))
    call = Call(Method("unary", "service", "Encode", guarded=True), "id", CallRecorder(), authorization="Bearer secret")
    assert "ancestral.caller" not in _attributes(call, end, trace)
    meter, metrics = Meter(Quota(), 0.0), Metrics("1").access.caller("shop", lambda: 0)
    call.visit = Visit("shop", meter, metrics, stream=False)
    said = _attributes(call, end, trace)
    assert said["ancestral.caller"] == "shop"
    assert "secret" not in str(said)
