"""The lane of a raster role: samples, not requests, share the rows. Admit, run one row for all, retire.

Samples join at any row boundary and leave when they are painted, so a short request never waits for a long one's last
image (continuous batching; Yu et al. 2022, "Orca", section 3, for the same idea with tokens).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import structlog

from ancestral_server.engine import policy
from ancestral_server.engine.job import RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.slots import Slots
from ancestral_server.errors import Internal
from ancestral_server.metrics import LaneMetrics
from ancestral_server.runtime.program import RasterProgram

log = structlog.get_logger()


class RasterLoop(Lane[RasterJob]):
    """A request larger than the slots is simply worked off, in turn with the others."""

    def __init__(
        self, name: str, program: RasterProgram, metrics: LaneMetrics, *, max_batch: int, max_queued: int
    ) -> None:
        super().__init__(name, metrics, max_queued)
        self._program = program
        self._buckets = policy.buckets(max_batch)
        self._slots = Slots(program, max_batch)
        self.has_log_likelihood = program.has_log_likelihood

    def warm_up(self) -> None:
        """Run one row of every bucket, so that no caller pays for a first run."""
        for rows in self._buckets:
            inputs = {meaning: self._program.blank(meaning, rows) for meaning in self._program.inputs}
            self._program.run_row(inputs, self._program.fresh_states(rows))

    def _turn(self) -> None:
        self._admit()
        if self._slots.used:
            self._run_and_retire()

    def _in_hand(self) -> Iterable[RasterJob]:
        jobs = {id(job): job for job in self._slots.jobs if job is not None}
        self._slots = Slots(self._program, self._slots.capacity)
        return jobs.values()

    def _admit(self) -> None:
        """Free the slots of those who left, then fill free slots from the queue, one sample per request in turn."""
        slots = self._slots
        self._free_departed()
        with self._changed:
            if not slots.used:
                self._wait_for_work()
            self._drop_departed()
            while slots.used < slots.capacity and self._queue:
                job = self._queue.popleft()
                if job.taken == 0:
                    job.images = np.empty((job.rows, *self._program.image_shape), np.uint8)
                    job.log_likelihood = np.empty(job.rows, np.float32)
                index = job.taken
                self._take_rows(job, 1)
                slots.place(slots.used, job, index)
                if job.taken < job.rows:
                    self._queue.append(job)

    def _free_departed(self) -> None:
        now = time.monotonic()
        jobs = self._slots.jobs
        gone = [slot for slot in range(self._slots.used) if (job := jobs[slot]) is not None and job.departed(now)]
        if not gone:
            return
        departed = {id(job): job for slot in gone if (job := jobs[slot]) is not None}
        self._slots.drop(gone)
        with self._changed:
            self._forget(departed.values())
        self._expire(departed.values())

    def _forget(self, jobs: Iterable[RasterJob]) -> None:
        """Take the waiting samples of jobs out of the queue. The lock is held."""
        for job in jobs:
            if job in self._queue:
                self._queue.remove(job)
                self._queued_rows -= job.rows - job.taken

    def _run_and_retire(self) -> None:
        slots = self._slots
        began = time.monotonic()
        try:
            done = slots.paint_row(policy.bucket(slots.used, self._buckets))
        except Exception as error:
            log.exception("run failed", lane=self.name, rows=slots.used)
            jobs = list(self._in_hand())
            with self._changed:
                self._forget(jobs)
            self._fail(jobs, Internal(f"{self.name}: the run failed: {error}"))
            return
        height = self._program.image_shape[0]
        self._learn((time.monotonic() - began) * height, slots.used)
        self.metrics.batch_size.observe(slots.used)

        finished = []
        for slot in done:
            job = slots.jobs[slot]
            assert job is not None
            index = slots.index[slot]
            job.images[index] = slots.images[slot]
            job.log_likelihood[index] = slots.log_likelihood[slot]
            job.done += 1
            if job.done == job.rows:
                finished.append(job)
        slots.drop(done)
        self._finish(finished)
