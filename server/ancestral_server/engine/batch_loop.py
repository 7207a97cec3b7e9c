"""The lane of a one-shot role: take what is queued, stack, pad to a bucket, run, split.

Letters: B rows of a batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import structlog

from ancestral_server.engine import policy
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.job import OneShotJob
from ancestral_server.engine.lane import Lane
from ancestral_server.errors import Internal
from ancestral_server.metrics import LaneMetrics
from ancestral_server.runtime.program import Meaning, OneShotProgram
from ancestral_server.runtime.session import Array

log = structlog.get_logger()


@dataclass(slots=True)
class Piece:
    """Rows `start` to `stop` of a job in one batch."""

    job: OneShotJob
    start: int
    stop: int


class BatchLoop(Lane[OneShotJob]):
    """Dynamic batching. A request larger than a batch is split over several, never refused."""

    def __init__(
        self,
        name: str,
        program: OneShotProgram,
        metrics: LaneMetrics,
        *,
        max_batch: int,
        max_queued: int,
        wait: float,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(name, metrics, max_queued)
        self._program = program
        self._buckets = policy.buckets(max_batch)
        self._longest_wait = wait
        self._arrivals = arrivals
        self._pieces: list[Piece] = []
        # How many requests were in flight together, of the last batches: who may still be on the way.
        self._crowds: deque[int] = deque([1], maxlen=16)

    def warm_up(self) -> None:
        """Run every bucket once, so that no caller pays for a first run."""
        for rows in self._buckets:
            inputs = {meaning: self._program.blank(meaning, rows) for meaning in self._program.inputs}
            self._program.run(inputs, list(self._program.outputs))

    def _needed_seconds(self, job: OneShotJob) -> float:
        return self._work_seconds(job.rows)

    def _work_seconds(self, rows: int) -> float:
        whole, rest = divmod(rows, self._buckets[-1])
        seconds = whole * self._costs.seconds(self._buckets[-1])
        return seconds + (self._costs.seconds(policy.bucket(rest, self._buckets)) if rest else 0.0)

    def _turn(self, worker: int) -> None:
        self._admit()
        if self._pieces:
            self._run_and_retire()

    def _in_hand(self, worker: int) -> Iterable[OneShotJob]:
        jobs = [piece.job for piece in self._pieces]
        self._pieces = []
        return jobs

    def _admit(self) -> None:
        with self._changed:
            self._wait_for_work()
            self._wait_for_others()
            self._drop_departed()
            room = self._buckets[-1]
            while room and self._queue:
                job = self._queue[0]
                rows = min(room, job.rows - job.taken)
                self._pieces.append(Piece(job, job.taken, job.taken + rows))
                self._take_rows(job, rows)
                room -= rows
                if job.taken == job.rows:
                    self._queue.popleft()

    def _wait_for_others(self) -> None:
        crowd = max(self._crowds)
        began = time.monotonic()
        while not self._closing and self._queued_rows < self._buckets[-1]:
            now = time.monotonic()
            seconds = policy.batch_wait(
                queued=len(self._queue),
                coming=self._arrivals.coming(now),
                crowd=crowd,
                waited=now - began,
                since_arrival=now - self._last_arrival,
                longest=self._longest_wait,
            )
            if seconds <= 0:
                return
            # Woken before the time is up only by the arrival that completes the crowd, not by each.
            complete = int(np.ceil(policy.CROWD_SHARE * crowd))
            self._sleep(complete if len(self._queue) < complete else self._buckets[-1], seconds)

    def _run_and_retire(self) -> None:
        pieces, rows = self._pieces, sum(piece.stop - piece.start for piece in self._pieces)
        began = time.monotonic()
        try:
            wanted = list({meaning: None for piece in pieces for meaning in piece.job.wanted})
            inputs = self._stack(rows)
            gathered = time.monotonic()
            outputs = self._program.run(inputs, wanted)
        except Exception as error:
            log.exception("run failed", lane=self.name, rows=rows)
            jobs = self._in_hand(0)
            self._abandon({id(job): job for job in jobs}.values())
            self._fail(jobs, Internal(f"{self.name}: the run failed: {error}"))
            return
        self._pieces = []
        ran = time.monotonic()
        self._costs.learn(policy.bucket(rows, self._buckets), ran - began)
        self.metrics.batch_size.observe(rows)

        finished, at = [], 0
        for piece in pieces:
            size = piece.stop - piece.start
            for meaning in piece.job.wanted:
                piece.job.pieces.setdefault(meaning, []).append(outputs[meaning][at : at + size])
            at += size
            piece.job.done += size
            if piece.job.done == piece.job.rows:
                finished.append(piece.job)
        self.stats.ran(rows, len(pieces), began=began, gathered=gathered, ran=ran, done=time.monotonic())
        # Before the post: afterwards the answered callers send again.
        self._crowds.append(len(pieces) + len(self._queue))
        self._finish(finished)

    def _abandon(self, jobs: Iterable[OneShotJob]) -> None:
        """Take the rest of failed jobs out of the queue."""
        with self._changed:
            for job in jobs:
                if job in self._queue:
                    self._queue.remove(job)
                    self._unqueue(job.rows - job.taken)

    def _stack(self, rows: int) -> dict[Meaning, Array]:
        """The batch's inputs, padded to a bucket: [B, ...] by meaning."""
        size = policy.bucket(rows, self._buckets)
        stacked: dict[Meaning, Array] = {}
        for meaning in self._program.inputs:
            parts = [piece.job.input_rows(meaning, piece.start, piece.stop) for piece in self._pieces]
            if len(parts) == 1 and parts[0] is not None and rows == size:
                stacked[meaning] = parts[0]
                continue
            array = self._program.blank(meaning, size)
            at = 0
            for piece, part in zip(self._pieces, parts, strict=True):
                stop = at + piece.stop - piece.start
                if part is not None:
                    array[at:stop] = part
                at = stop
            stacked[meaning] = array
        return stacked
