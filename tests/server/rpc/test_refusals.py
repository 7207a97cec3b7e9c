"""What the log tells of refused calls, by numbers."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from ancestral_server.rpc import refusals
from ancestral_server.rpc.refusals import RefusalLog, Refusals, Summary


def test_calls_are_counted_by_reason_and_lane_until_they_are_told() -> None:
    counted = Refusals()
    assert counted.add(10.0, "QUEUE_FULL", "m:1 encode", "first")
    assert not counted.add(10.1, "QUEUE_FULL", "m:1 score", "other")
    assert not counted.add(10.2, "QUEUE_FULL", "m:1 encode", "last")
    assert not counted.add(10.3, "DEADLINE_INFEASIBLE", "m:1 encode", "late")
    assert counted.report(11.5) == (
        1.5,
        [
            Summary("QUEUE_FULL", "m:1 encode", 2, "last"),
            Summary("QUEUE_FULL", "m:1 score", 1, "other"),
            Summary("DEADLINE_INFEASIBLE", "m:1 encode", 1, "late"),
        ],
    )
    # Told once; the next is a first again.
    assert counted.report(12.0)[1] == []
    assert counted.add(20.0, "QUEUE_FULL", "m:1 encode", "again")
    assert counted.report(21.0) == (1.0, [Summary("QUEUE_FULL", "m:1 encode", 1, "again")])


def test_hundreds_of_lanes_are_few_lines_and_no_call_is_left_out() -> None:
    counted = Refusals()
    for lane in range(300):
        for _ in range(lane + 1):
            counted.add(0.0, "QUEUE_FULL", f"m{lane}:1 encode", "full")
    _, told = counted.report(1.0)
    assert len(told) == refusals.MOST_LINES + 1
    assert told[0].lane == "m299:1 encode"
    assert sum(summary.calls for summary in told) == sum(range(301))
    assert told[-1].details == "290 more reasons and lanes"


def test_a_line_is_written_a_second_later_or_at_the_end_and_no_timer_is_left() -> None:
    async def work() -> None:
        loop, told = asyncio.get_running_loop(), RefusalLog()
        told.tell()
        with capture_logs() as lines:
            for _ in range(184):
                told.add("QUEUE_FULL", "m:1 encode", "full")
            assert lines == []
            timer = told._timer
            assert timer is not None
            assert timer.when() - loop.time() <= refusals.EVERY_SECONDS
            told.tell()
            told.tell()
        assert timer.cancelled()
        assert told._timer is None
        (line,) = lines
        assert line.pop("seconds") >= 0
        assert line == {
            "event": "calls refused",
            "log_level": "warning",
            "calls": 184,
            "reason": "QUEUE_FULL",
            "lane": "m:1 encode",
            "details": "full",
        }

    asyncio.run(work())
