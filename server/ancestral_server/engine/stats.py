"""What the lanes of a role have done since they were made: running sums, for whoever asks how they do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ancestral_server.engine.job import Job, RasterJob
from ancestral_server.engine.quality import Quality
from ancestral_server.engine.raster import RowStep
from ancestral_server.engine.scheduler import Answers, Step
from ancestral_server.errors import DeadlineExceeded
from ancestral_server.metrics import LaneMetrics


@dataclass(slots=True)
class Runs:
    """Runs of one size, and the seconds of their stages: gathering rows, running, handing rows back."""

    count: int = 0
    input_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0


@dataclass(slots=True)
class LaneStats:
    """Of all lanes of a role, whose turns may go on at the same time; read by anybody.

    Of answered requests: their rows, the seconds they waited, and the seconds from admission to the answer. Of these
    `input_seconds` and `output_seconds` are the part in which their rows were gathered and handed back.
    """

    metrics: LaneMetrics
    requests: int = 0
    rows: int = 0
    queue_seconds: float = 0.0
    total_seconds: float = 0.0
    input_seconds: float = 0.0
    output_seconds: float = 0.0
    # Admitted, then expired or failed.
    failures: int = 0
    failure_seconds: float = 0.0
    # What looks at the images of answered requests, if anything does.
    quality: Quality | None = None
    # By rows in a run, without padding.
    runs: dict[int, Runs] = field(default_factory=dict)
    # time.monotonic() of the last run's end, 0 before the first.
    last_run: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ran(self, step: Step, ran: float, done: float) -> None:
        """A run has ended, and then its rows were handed back, time.monotonic() seconds."""
        rows, requests, gathered = step.rows, step.requests, step.gathered
        begun: Sequence[RasterJob] = ()
        if isinstance(step, RowStep):
            if step.painted is None:
                # The step has only begun a row, which ends with a later one.
                return
            begun = step.painted.begun
        with self._lock:
            self.metrics.batch_size.observe(rows)
            self.metrics.run_seconds += ran - gathered
            for job in begun:
                self.metrics.first_row_seconds.observe(ran - job.submitted)
            runs = self.runs.get(rows)
            if runs is None:
                runs = self.runs[rows] = Runs()
            runs.count += 1
            runs.input_seconds += gathered - step.began
            runs.infer_seconds += ran - gathered
            runs.output_seconds += done - ran
            self.input_seconds += requests * (gathered - step.began)
            self.output_seconds += requests * (done - ran)
            self.last_run = done

    def answered(self, answers: Answers[Any], now: float) -> None:
        """Requests have their answer; `started` and `finished` are set of those that went well."""
        with self._lock:
            self.requests += len(answers.finished)
            for job in answers.finished:
                # Each of them once: nearly every call comes by here.
                queued, computed = job.started - job.submitted, job.finished - job.started
                self.rows += job.rows
                self.queue_seconds += queued
                self.total_seconds += queued + computed
                self.metrics.record_request(job.rows, queued, computed)
            self.failures += len(answers.failed)
            for job, error in answers.failed:
                self.failure_seconds += now - job.submitted
                if isinstance(error, DeadlineExceeded):
                    self.metrics.dropped("expired", 1)
            if answers.cancelled:
                self.metrics.dropped("cancelled", len(answers.cancelled))

    def look(self, jobs: Sequence[Job], now: float) -> None:
        """Look at the images of some of these jobs, which have their answers, now and then."""
        if self.quality is None or not jobs or now < self.quality.due:
            return
        loop = asyncio._get_running_loop()
        if loop is None:
            self.quality.look(jobs, now)
        else:  # after the callers, whose answers it is about to write
            loop.call_soon(self.quality.look, jobs, now)

    def refused(self, reason: str) -> None:
        """A request was not admitted."""
        self.metrics.refused(reason)

    def restarted(self) -> None:
        """A lane has failed outside of a run and begins anew."""
        self.metrics.restarts.inc()

    def out_of_memory(self) -> None:
        """A run did not fit into memory."""
        self.metrics.out_of_memory.inc()

    def sizes(self) -> list[tuple[int, Runs]]:
        """`runs` in ascending order, as they are now."""
        with self._lock:
            return sorted(self.runs.items())
