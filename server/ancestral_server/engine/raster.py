"""Continuous batching by rows: samples, not requests, share the runs of a raster role. Admit, run one row for all,
retire.

Samples join at any row boundary and leave when they are painted, so a short request never waits for a long one's last
image (Yu et al. 2022, "Orca", section 3, for the same idea with tokens).

On the CPU a lane has as many seats as there are cores, each with slots of its own: a row is hundreds of small
operations in a chain, which two threads together finish hardly sooner than one, but two of them paint two sets of
samples at a time.

Where rows are painted by somebody else, a GPU, the two take turns: a step's run waits for the row that the step before
has begun, and begins the next at once. So newcomers are let in and their noise is drawn, rows are told and images are
handed out while the next row is being painted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from ancestral_server.engine.admission import Limits, check_deadline, check_queue
from ancestral_server.engine.batching import parts, share
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.job import Priority, RasterJob
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.queue import JobQueue
from ancestral_server.engine.scheduler import IDLE, Answers, Clock, Wait
from ancestral_server.engine.slots import PaintedRow, Slots
from ancestral_server.errors import DeviceLost, Infeasible, Internal, OutOfMemory, Overdue, ServerError
from ancestral_server.runtime.program import RasterProgram

log = structlog.get_logger()

# One slot in so many is for requests that hold none yet, so that these need not wait until an image of a large request
# is finished: a single image begins at the next row. Its price is an eighth of the slots. Not ablated.
RESERVED_SHARE = 8


def reserve(slots: int) -> int:
    """How many of a seat's slots are for requests that hold none yet."""
    return -(-slots // RESERVED_SHARE) if slots > 1 else 0


@dataclass(slots=True, eq=False)
class RowStep:
    """A run of one image row of the first `count` slots of a seat, in parts of these sizes: where rows are painted
    meanwhile it begins, and what ends with the run is the row that was begun before, if any.
    """

    slots: Slots
    count: int
    sizes: Sequence[int]
    began: float
    gathered: float
    # What has ended with it.
    painted: PaintedRow | None = None
    # A sample is of many runs, and its request does not begin or end with this one.
    requests: int = 0

    @property
    def rows(self) -> int:
        """Samples of the row that has ended with it; until then, of the one that it begins."""
        return self.count if self.painted is None else len(self.painted)

    def run(self, clock: Clock) -> None:
        slots = self.slots
        slots.draw()
        if slots.painting is not None:
            self.painted = slots.end_row()
            slots.free()
        if self.count:
            slots.begin_row(self.sizes, self.count, clock())
            if not slots.overlaps:
                self.painted = slots.end_row()


class RasterScheduler:
    """A scheduler of rows: see `scheduler.Scheduler`. What is larger than the slots is worked off in turn with others.

    slots: samples that each seat paints at a time, the last few kept for requests that have none yet.
    sizes: of a row's run, ascending. costs: what runs of these sizes take, as far as is known.
    fixed: every run is of all slots, used or not; on a GPU another size of batch may change a sample's last bits.
    """

    def __init__(
        self,
        name: str,
        program: RasterProgram,
        *,
        slots: int,
        limits: Limits,
        costs: CostModel,
        memory: BatchSizeLimit,
        seats: int = 1,
        fixed: bool = False,
    ) -> None:
        self.name = name
        self.answers: Answers[RasterJob] = Answers()
        self.queue: JobQueue[RasterJob] = JobQueue()
        self.costs = costs
        # Samples of one row's run, at most; slots beyond that are painted in further runs.
        self.memory = memory
        self._program = program
        self._limits = limits
        self._fixed = fixed
        self._open_slots = slots - reserve(slots)
        self._slots = [Slots(program, slots) for _ in range(seats)]
        # By seat: jobs, by identity, whose next row failed in company and is run again without the others.
        self._again: list[deque[Collection[int]]] = [deque() for _ in range(seats)]

    @property
    def seats(self) -> int:
        return len(self._slots)

    @property
    def waiting(self) -> int:
        # What is to be run again lies in the slots of a seat, which asks for it.
        return len(self.queue)

    @property
    def capacity(self) -> int:
        """How many samples are painted at a time, at most."""
        return sum(slots.capacity for slots in self._slots)

    @property
    def used(self) -> int:
        """How many samples are being painted."""
        return sum(slots.used for slots in self._slots)

    # ---- the verbs

    def submit(self, job: RasterJob, now: float) -> None:
        # Requests take turns sample by sample.
        ahead = self.queue.ahead(job.rows, job.priority, 1)
        try:
            check_deadline(self.name, job, ahead, self, now)
        except Infeasible:
            self.costs.decay(now, idle=not self.queue and not self.used)
            raise
        check_queue(self.name, self.queue, job, ahead, self._limits, self)
        self.queue.add(job)

    def next(self, now: float, seat: int) -> RowStep | Wait:
        slots = self._slots[seat]
        self._drop_departed(slots, now)
        self._fill(slots, now)
        count = self._take_again(seat) or slots.staying
        if not count and slots.painting is None:
            return IDLE
        sizes = parts(count, self.memory.most(now), slots.capacity, full=self._fixed)
        return RowStep(slots, count, sizes, now, now)

    def pending(self, seat: int) -> bool:
        return bool(self._slots[seat].used or self.queue)

    def finish(self, step: RowStep, now: float, seat: int) -> None:
        row = step.painted
        if row is None:
            return
        if len(step.sizes) <= 1:
            self.costs.learn(step.sizes[0] if self._fixed else len(row), now - row.began, now)
        for job in row.holders:
            job.batch_size = max(job.batch_size, len(row))
        told = self._tell_rows(row)
        for job, places in _by_job(row):
            index = row.index[row.finished[places]]
            job.images[index] = row.images[places]
            job.log_likelihood[index] = row.log_likelihood[places]
            job.done += len(places)
            if job.feed is not None:
                job.feed.events.extend((int(i), None) for i in index)
                told[id(job)] = job
            if job.done == job.rows:
                self.answers.finish(job, now)
        step.slots.free()
        self.answers.told.extend(told.values())

    def fail(self, step: RowStep, error: Exception, now: float, seat: int) -> None:
        slots = step.slots
        if isinstance(error, DeviceLost):
            # With it whatever was in the slots; the server ends.
            log.error("run failed", lane=self.name, rows=step.rows, reason=str(error))
            self.abandon(error, seat)
            return
        jobs = _jobs_of(slots, range(slots.used if slots.overlaps else step.count))
        if isinstance(error, OutOfMemory | MemoryError):
            # The same row again, in parts half as large; nobody hears of it, unless not even one sample fits.
            smaller = self.memory.shrink(max(step.sizes, default=0), now)
            log.warning(
                "out of memory", lane=self.name, rows=step.rows, next_rows=self.memory.most(now), reason=str(error)
            )
            if smaller:
                return
            told: ServerError = OutOfMemory(f"{self.name}: not even one image fits into memory: {error}")
        elif len(jobs) > 1 and self._worth_halving(error, slots):
            # onnxruntime's: the same row again, for half of the requests at a time, until the guilty one is alone. One
            # among n costs 2 log2(n) runs, n of them 2 n.
            log.warning("run failed, its parts are tried", lane=self.name, rows=step.rows, reason=str(error))
            middle = len(jobs) // 2
            halves = [[id(job) for job in half] for half in (jobs[:middle], jobs[middle:])]
            self._again[seat].extendleft(reversed(halves))
            return
        else:
            log.error("run failed", lane=self.name, rows=step.rows, exc_info=True)
            told = Internal(f"{self.name}: the run failed: {error}")
        self._give_up(jobs, told)

    @staticmethod
    def _worth_halving(error: Exception, slots: Slots) -> bool:
        """Whether a row that failed may succeed for some of its requests; not one that a device has begun."""
        return isinstance(error, RuntimeError) and not isinstance(error, Overdue) and not slots.overlaps

    def abandon(self, error: ServerError, seat: int | None = None) -> None:
        seats = range(self.seats) if seat is None else [seat]
        for each in seats:
            slots = self._slots[each]
            self._again[each].clear()
            self._give_up(_jobs_of(slots, range(slots.used)), error)
        if seat is None:
            self.answers.fail(self.queue.clear(), error)
        # Last, when all are answered, since there may be no memory for them. New ones, since a run that goes on may
        # still write to the others.
        for each in seats:
            self._slots[each] = Slots(self._program, self._slots[each].capacity)

    def begin_no_more(self, job: RasterJob, now: float) -> None:
        """Let a submitted job end with the samples that have begun, the first ones; `rows` says how many."""
        if job.taken == job.rows or job.answered:
            return
        self.queue.remove([job])
        job.rows = job.taken
        job.started = job.started or now
        if job.done == job.rows:
            self.answers.finish(job, now)

    # ---- who is in the slots

    def _drop_departed(self, slots: Slots, now: float) -> None:
        """Free the slots, and forget the waiting rows, of those who have left or whose time is up."""
        departed = [job for job in slots.holders if job.departed(now)]
        if departed:
            self.queue.remove(departed)
            self.answers.depart(departed, self.name)
            slots.leave(departed)
            slots.free()
        self.answers.depart(self.queue.departed(now), self.name)

    def _give_up(self, jobs: Collection[RasterJob], error: ServerError) -> None:
        """Answer jobs with an error; their slots are freed by the seats that hold them, as of all that are answered."""
        self.queue.remove(jobs)
        self.answers.fail(jobs, error)

    def _fill(self, slots: Slots, now: float) -> None:
        """Place this seat's share of the waiting samples, one per request in turn."""
        most = min(slots.capacity, share(self.queue.total_rows + self.used, self.seats, 0))
        taken = slots.staying
        while taken < most and slots.places and (job := self._whose_turn(taken)):
            # A job that waits alone has all the turns, up to the slots that are kept for others.
            alone = len(self.queue) == 1 and taken < self._open_slots
            count = min(job.waiting, min(most, self._open_slots) - taken, slots.places) if alone else 1
            try:
                self._begin(job, count, slots, now)
            except Exception as error:  # noqa: BLE001 - whatever it is, others must not wait behind this job for ever
                self._refuse(job, error)
            else:
                taken += count

    def _begin(self, job: RasterJob, count: int, slots: Slots, now: float) -> None:
        """Place the next samples of a job."""
        if job.taken == 0:
            job.started = now
            job.images = np.empty((job.rows, *self._program.image_shape), np.uint8)
            job.log_likelihood = np.empty(job.rows, np.float32)
        # What a job brings for the last of them is there, or nothing of it begins.
        job.stream(job.taken + count - 1)
        slots.place(job, job.taken, count)
        self.queue.take(job, count)

    def _refuse(self, job: RasterJob, error: Exception) -> None:
        """Answer a job of which a sample could not be placed."""
        log.error("samples cannot begin", lane=self.name, rows=job.rows, reason=str(error), exc_info=True)
        told: ServerError = Internal(f"{self.name}: the call's samples cannot begin: {error}")
        if isinstance(error, MemoryError):
            few = "ask for fewer at a time" if job.rows > 1 else "try it again later"
            told = OutOfMemory(
                f"{self.name}: {job.rows} images of one call do not fit into memory now: {few} ({error})"
            )
        self._give_up([job], told)

    def _whose_turn(self, taken: int) -> RasterJob | None:
        """The request whose turn it is; into the last few slots come only interactive ones that have none yet."""
        if taken < self._open_slots:
            return next((jobs[0] for jobs in self.queue.order() if jobs), None)
        return next((job for job in self.queue.classes[Priority.INTERACTIVE] if job.taken == 0), None)

    def _take_again(self, seat: int) -> int:
        """Bring forward the samples whose row has to be run without the others; how many they are, 0 if there are none
        such.
        """
        again = self._again[seat]
        while again:
            if count := self._slots[seat].bring_forward(again.popleft()):
                return count
        return 0

    def _tell_rows(self, row: PaintedRow) -> dict[int, RasterJob]:
        """Tell a row that was painted to those who asked for it; whom, by identity."""
        watching = {job for job in row.holders if job.feed is not None and job.feed.rows}
        if not watching:
            return {}
        told: dict[int, RasterJob] = {}
        for place, job in enumerate(row.jobs):
            if job in watching:
                index, number = int(row.index[place]), int(row.rows[place])
                job.images[index, number] = row.pixels[place]
                job.feed.events.append((index, number))
                told[id(job)] = job
        return told

    # ---- its pace, see `admission.Pace`

    def needed_seconds(self, rows: int, ahead: int, now: float) -> float:
        # The last sample waits for its slot, and then takes as long as any.
        size = min(self._open_slots, share(ahead + rows + self.used, self.seats, 0))
        return self.queue_seconds(ahead + rows) + self._height * self._run_seconds(size)

    def queue_seconds(self, rows: int) -> float:
        # What is free is filled at the next row.
        return max(0, rows - (self.capacity - self.used)) * self.row_seconds

    @property
    def batch_seconds(self) -> float:
        # Samples leave at every row and few at a time: half of the slots' worth keeps them all in use.
        return self._image_seconds / 2

    @property
    def row_seconds(self) -> float:
        # A waiting row of the queue is a sample.
        return self._image_seconds / (self._open_slots * self.seats)

    @property
    def _image_seconds(self) -> float:
        """Seconds that an image takes while all slots are in use."""
        return self._height * self._run_seconds(self._open_slots)

    def _run_seconds(self, rows: int) -> float:
        return self.costs.seconds(self._slots[0].capacity if self._fixed else rows)

    @property
    def _height(self) -> int:
        return self._program.image_shape[0]


def _jobs_of(slots: Slots, numbers: Iterable[int]) -> list[RasterJob]:
    """The jobs in some slots, each once."""
    return list(dict.fromkeys(slots.jobs[number] for number in numbers))


def _by_job(row: PaintedRow) -> Iterable[tuple[RasterJob, list[int]]]:
    """The jobs of the samples that a row has finished, each with where these are among them."""
    found: dict[RasterJob, list[int]] = {}
    for place, job in enumerate(row.jobs[row.finished]):
        found.setdefault(job, []).append(place)
    return found.items()
