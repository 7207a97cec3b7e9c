"""What a lane has done since it was made: running sums, for whoever asks how it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ancestral_server.engine.job import Job


@dataclass(slots=True)
class Runs:
    """Runs of one size, and the seconds of their stages: gathering rows, running, handing rows back."""

    count: int = 0
    input_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0


@dataclass(slots=True)
class LaneStats:
    """Written by whoever has the lane's turns, once per run and once per batch of answers; read by anybody.

    Of answered requests: their rows, the seconds they waited, and the seconds from admission to the answer. Of these
    `input_seconds` and `output_seconds` are the part in which their rows were gathered and handed back.
    """

    requests: int = 0
    rows: int = 0
    queue_seconds: float = 0.0
    total_seconds: float = 0.0
    input_seconds: float = 0.0
    output_seconds: float = 0.0
    # Admitted, then expired or failed.
    failures: int = 0
    failure_seconds: float = 0.0
    # By rows in a run, without padding.
    runs: dict[int, Runs] = field(default_factory=dict)
    # time.monotonic() of the last run's end, 0 before the first.
    last_run: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ran(self, rows: int, requests: int, *, began: float, gathered: float, ran: float, done: float) -> None:
        """One run of rows of so many requests, and when its stages ended, time.monotonic() seconds."""
        with self._lock:
            runs = self.runs.get(rows)
            if runs is None:
                runs = self.runs[rows] = Runs()
            runs.count += 1
            runs.input_seconds += gathered - began
            runs.infer_seconds += ran - gathered
            runs.output_seconds += done - ran
            self.input_seconds += requests * (gathered - began)
            self.output_seconds += requests * (done - ran)
            self.last_run = done

    def answered(self, jobs: Sequence[Job]) -> None:
        """Requests that have their answer; `started` and `finished` are set."""
        with self._lock:
            self.requests += len(jobs)
            for job in jobs:
                self.rows += job.rows
                self.queue_seconds += job.started - job.submitted
                self.total_seconds += job.finished - job.submitted

    def failed(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        with self._lock:
            self.failures += len(jobs)
            self.failure_seconds += sum(now - job.submitted for job in jobs)

    def sizes(self) -> list[tuple[int, Runs]]:
        """`runs` in ascending order, as they are now."""
        with self._lock:
            return sorted(self.runs.items())
