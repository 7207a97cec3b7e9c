"""The lane of a raster role: samples, not requests, share the rows. Admit, run one row for all, retire.

Samples join at any row boundary and leave when they are painted, so a short request never waits for a long one's last
image (continuous batching; Yu et al. 2022, "Orca", section 3, for the same idea with tokens).

On the CPU one worker per core has slots of its own and computes alone: a row is hundreds of small operations in a
chain, which two threads together finish hardly sooner than one, but two workers paint two sets of samples at a time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping

import numpy as np
import structlog

from ancestral_server.engine import policy
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.answers import post
from ancestral_server.engine.cores import Cores
from ancestral_server.engine.job import Priority, RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.niceness import ROWS
from ancestral_server.engine.room import Room
from ancestral_server.engine.slots import Slots
from ancestral_server.engine.warming import warm_up
from ancestral_server.errors import Internal, OutOfMemory, Overdue
from ancestral_server.metrics import LaneMetrics
from ancestral_server.runtime.program import RasterProgram

log = structlog.get_logger()


class RasterLoop(Lane[RasterJob]):
    """A request larger than the slots is simply worked off, in turn with the others.

    slots: samples that each worker paints at a time, the last few kept for requests that have none yet.
    fixed: every run is of all slots, used or not; on a GPU another size of batch may change a sample's last bits.
    """

    # Rows keep every core busy without a pause: the event loop and the other models must not stand in line for one.
    _niceness = ROWS

    def __init__(
        self,
        name: str,
        program: RasterProgram,
        metrics: LaneMetrics,
        *,
        slots: int,
        limits: Limits,
        cores: Cores,
        workers: int = 1,
        fixed: bool = False,
    ) -> None:
        super().__init__(name, metrics, limits, workers)
        self._program = program
        self._cores = cores
        self._quantum = 1
        self._limit = slots - policy.reserve(slots)
        self._fixed = fixed
        self._slots = [Slots(program, slots) for _ in range(workers)]
        # Samples of one row's run, at most; slots beyond that are painted in further runs.
        self._rooms = [Room(policy.buckets(slots)) for _ in range(workers)]
        self.has_log_likelihood = program.has_log_likelihood

    @property
    def capacity(self) -> int:
        """How many samples are painted at a time, at most."""
        return sum(slots.capacity for slots in self._slots)

    @property
    def used(self) -> int:
        """How many samples are being painted."""
        return sum(slots.used for slots in self._slots)

    def warm_up(self) -> None:
        """Run rows of many sizes, so that no caller pays for a first run and the cost of each is known.

        A size that does not fit into memory bounds the runs; OutOfMemory if one sample does not.
        """
        sizes = policy.buckets(self._slots[0].capacity)
        warm_up(sizes, self._rooms, self._run_blank, self._costs, self.metrics)

    def _run_blank(self, size: int) -> float:
        """Seconds of a row's run of so many samples."""
        inputs = {meaning: self._program.blank(meaning, size) for meaning in self._program.inputs}
        began = time.monotonic()
        row, likelihood, _ = self._program.run_row(inputs, self._program.fresh_states(size))
        seconds = time.monotonic() - began
        self._program.check_row(row, likelihood, size)
        return seconds

    def _probe(self) -> None:
        self._run_blank(1)

    async def watch(self, job: RasterJob) -> AsyncGenerator[tuple[int, int | None]]:
        """Admit a job that has a feed and tell its events as they happen; see `Feed`. ServerError as from `ask`."""
        feed = job.feed
        assert feed is not None
        self.submit(job)
        job.future.add_done_callback(lambda _: feed.changed.set())
        try:
            while True:
                await feed.changed.wait()
                feed.changed.clear()
                answered = job.future.done()
                while feed.events:
                    yield feed.events.popleft()
                if answered:
                    job.future.result()
                    break
        finally:
            # Both do nothing once the job is answered; without the second an error that comes later would be reported
            # as one that nobody took.
            job.cancelled = True
            job.future.cancel()
        self.metrics.record_request(job.queue_seconds, job.compute_seconds)

    def begin_no_more(self, job: RasterJob) -> None:
        """Let a submitted job end with the samples that have begun, the first ones; `rows` says how many."""
        with self._changed:
            if job.taken == job.rows:
                return
            self._queue.remove([job])
            job.rows = job.taken
            job.started = job.started or time.monotonic()
            finished = job.done == job.rows
        if finished:
            self._finish([job])

    def _needed_seconds(self, rows: int, ahead: int) -> float:
        # The last sample waits for its slot, and then takes as long as any.
        workers = len(self._slots)
        size = min(self._limit, policy.sample_share(waiting=ahead + rows, running=self.used, workers=workers))
        return self._queue_seconds(ahead + rows) + self._height * self._run_seconds(size)

    def _queue_seconds(self, rows: int) -> float:
        # What is free is filled at the next row.
        waiting = max(0, rows - (self.capacity - self.used))
        return waiting * self._row_seconds

    @property
    def _batch_seconds(self) -> float:
        # Samples leave at every row and few at a time: half of the slots' worth keeps them all in use.
        return self._image_seconds / 2

    @property
    def _row_seconds(self) -> float:
        # A waiting row of the queue is a sample.
        return self._image_seconds / (self._limit * len(self._slots))

    @property
    def _image_seconds(self) -> float:
        """Seconds that an image takes while all slots are in use."""
        return self._height * self._run_seconds(self._limit)

    def _run_seconds(self, rows: int) -> float:
        return self._costs.seconds(self._slots[0].capacity if self._fixed else rows)

    @property
    def _running(self) -> bool:
        return self.used > 0

    @property
    def _height(self) -> int:
        return self._program.image_shape[0]

    def _turn(self, worker: int) -> None:
        slots = self._slots[worker]
        self._admit(slots)
        if slots.used:
            with self._cores.turn():
                self._run_and_retire(worker, slots)

    def _in_hand(self, worker: int) -> Iterable[RasterJob]:
        slots = self._slots[worker]
        jobs = {id(job): job for job in slots.jobs if job is not None}
        self._slots[worker] = Slots(self._program, slots.capacity)
        return jobs.values()

    def _admit(self, slots: Slots) -> None:
        """Free the slots of those who left, then fill free slots from the queue, one sample per request in turn."""
        self._free_departed(slots)
        with self._changed:
            if not slots.used:
                self._wait_for_work()
            self._drop_departed()
            self._fill(slots, self._queue.total_rows)

    def _fill(self, slots: Slots, waiting: int) -> None:
        """Place this worker's share of so many waiting samples. The lock is held."""
        share = policy.sample_share(waiting=waiting, running=self.used, workers=len(self._slots))
        while slots.used < min(share, slots.capacity) and (job := self._next(slots)):
            if job.taken == 0:
                job.images = np.empty((job.rows, *self._program.image_shape), np.uint8)
                job.log_likelihood = np.empty(job.rows, np.float32)
            slots.place(job, job.taken)
            self._take_rows(job, 1)

    def _next(self, slots: Slots) -> RasterJob | None:
        """The request whose turn it is; into the last few slots come only interactive ones that have none yet."""
        if slots.used < self._limit:
            return next((jobs[0] for jobs in self._queue.order() if jobs), None)
        return next((job for job in self._queue.classes[Priority.INTERACTIVE] if job.taken == 0), None)

    def _free_departed(self, slots: Slots) -> None:
        now = time.monotonic()
        gone = [slot for slot in range(slots.used) if (job := slots.jobs[slot]) is not None and job.departed(now)]
        if not gone:
            return
        departed = {id(job): job for slot in gone if (job := slots.jobs[slot]) is not None}
        with self._changed:
            # Together: another worker may hold samples of the same jobs, and they are answered and counted once.
            slots.drop(gone)
            self._queue.remove(departed.values())
            self._expire(departed.values())

    def _run_and_retire(self, worker: int, slots: Slots) -> None:
        began = time.monotonic()
        most = self._rooms[worker].most
        sizes = policy.parts(slots.used, most, slots.capacity, full=self._fixed)
        try:
            done = slots.paint_row(sizes)
        except (OutOfMemory, MemoryError) as error:
            self._split(worker, slots.used, max(sizes), error)
            return
        except RuntimeError as error:
            self._suspect(worker, slots, max(sizes), error)
            return
        except Exception as error:
            log.exception("run failed", lane=self.name, rows=slots.used)
            self._give_up(list(self._in_hand(worker)), Internal(f"{self.name}: the run failed: {error}"))
            return
        ran = time.monotonic()
        # A row is gathered, run and handed back in one step.
        self.stats.ran(slots.used, 0, began=began, gathered=began, ran=ran, done=ran)
        told = self._tell_rows(slots)
        finished = []
        with self._changed:
            self.metrics.batch_size.observe(slots.used)
            if len(sizes) == 1:
                self._costs.learn(sizes[0], time.monotonic() - began)
            for slot in done:
                job = slots.jobs[slot]
                assert job is not None
                index = int(slots.index[slot])
                job.images[index] = slots.images[slot]
                job.log_likelihood[index] = slots.log_likelihood[slot]
                job.done += 1
                if job.feed is not None:
                    job.feed.events.append((index, None))
                    told[id(job)] = job
                if job.done == job.rows:
                    finished.append(job)
            slots.drop(done)
        self._wake(list(told.values()))
        self._finish(finished)

    def _split(self, worker: int, rows: int, size: int, error: Exception) -> None:
        """A row's run did not fit into memory: from now on half as many slots in each. Nobody hears of it, unless not
        even one fits.
        """
        self.metrics.out_of_memory.inc()
        smaller = self._rooms[worker].shrink(size)
        log.warning("out of memory", lane=self.name, rows=rows, next_rows=self._rooms[worker].most, reason=str(error))
        if not smaller:
            jobs = list(self._in_hand(worker))
            self._give_up(jobs, OutOfMemory(f"{self.name}: not even one image fits into memory: {error}"))

    def _suspect(self, worker: int, slots: Slots, size: int, error: RuntimeError) -> None:
        """A row's run failed: find the samples that are to blame, halving what failed, and answer whose they are. The
        others are painted on at the next turn. One among n costs 2 log2(n) runs, n of them 2 n.
        """
        log.error("run failed", lane=self.name, rows=slots.used, exc_info=error)
        guilty: dict[int, RuntimeError] = {}
        suspects = [list(range(slots.used))]
        if isinstance(error, Overdue):
            # Once is long enough.
            guilty = dict.fromkeys(suspects.pop(), error)
        while suspects:
            part = suspects.pop()
            try:
                slots.try_row(part, policy.parts(len(part), self._rooms[worker].most, slots.capacity, full=self._fixed))
            except (OutOfMemory, MemoryError):
                continue  # not what it failed of: its turn will come
            except RuntimeError as again:
                if len(part) == 1 or isinstance(again, Overdue):
                    guilty.update(dict.fromkeys(part, again))
                else:
                    suspects += [part[len(part) // 2 :], part[: len(part) // 2]]
        if guilty:
            self._blame(slots, guilty)
        elif not self._rooms[worker].shrink(size):
            self._give_up(list(self._in_hand(worker)), Internal(f"{self.name}: the run failed: {error}"))

    def _blame(self, slots: Slots, guilty: Mapping[int, RuntimeError]) -> None:
        """Answer the requests whose samples, by slot, cannot be painted, and free all their slots."""
        failed: dict[int, tuple[RasterJob, RuntimeError]] = {}
        for slot, error in guilty.items():
            if (job := slots.jobs[slot]) is not None:
                failed.setdefault(id(job), (job, error))
        with self._changed:
            # Together, as in `_free_departed`.
            slots.drop([slot for slot in range(slots.used) if id(slots.jobs[slot]) in failed])
            for job, error in failed.values():
                self._queue.remove([job])
                self._fail([job], Internal(f"{self.name}: the run failed: {error}"))

    def _tell_rows(self, slots: Slots) -> dict[int, RasterJob]:
        """Tell the rows that were just painted to those who asked for them; returns whom, by identity."""
        told: dict[int, RasterJob] = {}
        for slot in range(slots.used):
            job = slots.jobs[slot]
            if job is None or job.feed is None or not job.feed.rows:
                continue
            index, row = int(slots.index[slot]), int(slots.row[slot]) - 1
            job.images[index, row] = slots.images[slot, row]
            job.feed.events.append((index, row))
            told[id(job)] = job
        return told

    @staticmethod
    def _wake(jobs: list[RasterJob]) -> None:
        """Have the event loop look at the feeds of jobs."""

        def notify() -> None:
            for job in jobs:
                if job.feed is not None:
                    job.feed.changed.set()

        post(jobs, notify)
