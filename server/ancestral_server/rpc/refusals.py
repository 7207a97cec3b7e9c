"""Refused calls, for the log: in an overload they come by the thousand, and a line for each would cost more than the
refusal. So there is a line a second for each lane and reason, while there are any.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

# Refusals come by thousands a second; a person reads one line of them a second.
EVERY_SECONDS = 1.0
# Lines of one second: a folder may hold hundreds of models, and the others are told of in one more line.
MOST_LINES = 10


@dataclass
class Summary:
    """So many calls were refused for a reason, and the last of them with these words."""

    reason: str
    # Whose queue it was, "MODEL:VERSION ROLE"; empty where it was none's.
    lane: str
    calls: int
    details: str


class Refusals:
    """What was refused since the last report. Times are seconds on any one clock."""

    def __init__(self) -> None:
        self._since = 0.0
        self._summaries: dict[tuple[str, str], Summary] = {}

    def add(self, now: float, reason: str, lane: str, details: str) -> bool:
        """Count a call; whether it is the first since the last report, so that somebody has to ask for the next."""
        first = not self._summaries
        if first:
            self._since = now
        summary = self._summaries.setdefault((reason, lane), Summary(reason, lane, 0, details))
        summary.calls += 1
        summary.details = details
        return first

    def report(self, now: float) -> tuple[float, list[Summary]]:
        """Seconds since the first that was not yet told, and what was refused in them, the most first."""
        summaries = sorted(self._summaries.values(), key=lambda summary: -summary.calls)
        self._summaries = {}
        told, others = summaries[:MOST_LINES], summaries[MOST_LINES:]
        if others:
            calls = sum(summary.calls for summary in others)
            told.append(Summary("", "", calls, f"{len(others)} more reasons and lanes"))
        return now - self._since, told


class RefusalLog:
    """Writes the reports. On the event loop; its timer runs only while there is something to say."""

    def __init__(self) -> None:
        self._refusals = Refusals()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reason: str, lane: str, details: str) -> None:
        if self._refusals.add(time.monotonic(), reason, lane, details):
            self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self.tell)

    def tell(self) -> None:
        """Write what was not yet told, at the latest when the server ends."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        seconds, summaries = self._refusals.report(time.monotonic())
        for summary in summaries:
            log.warning(
                "calls refused",
                calls=summary.calls,
                seconds=round(seconds, 3),
                reason=summary.reason,
                lane=summary.lane,
                details=summary.details,
            )
