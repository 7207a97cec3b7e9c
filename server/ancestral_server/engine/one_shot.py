"""Dynamic batching: which rows of which jobs the next run of a one-shot role holds.

A request larger than a batch is split over several runs, never refused. Letters: B rows of a batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from ancestral_server.engine.admission import Limits, check_deadline, check_queue
from ancestral_server.engine.batching import (
    Piece,
    bucket,
    cut,
    deal,
    enough,
    fill,
    halves,
    jobs_of,
    share,
    stack,
    wanted_of,
)
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.job import OneShotJob
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.policy import BatchPolicy, View
from ancestral_server.engine.queue import JobQueue
from ancestral_server.engine.scheduler import IDLE, Answers, Clock, Wait
from ancestral_server.engine.watch import Run
from ancestral_server.errors import DeviceLost, Infeasible, Internal, OutOfMemory, Overdue, ServerError
from ancestral_server.runtime.program import Meaning, OneShotProgram, check_rows
from ancestral_server.runtime.session import Array

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class BatchStep:
    """A run of `rows` of some jobs, padded to B = `size`; until it is decided upon, the pieces taken for it so far."""

    program: OneShotProgram
    began: float
    pieces: list[Piece] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    # When it should end.
    due: float = 0.0
    gathered: float = 0.0
    outputs: Mapping[Meaning, Array] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return len(self.pieces)

    def run(self, clock: Clock) -> None:
        inputs = stack(self.program, self.pieces, self.size)
        self.gathered = clock()
        self.outputs = self.program.run(inputs, wanted_of(self.pieces))
        check_rows(self.outputs.values(), self.size)

    def tell(self, ended: float) -> None:
        """Tell of the run whoever watches a job in it."""
        watches = [watch for piece in self.pieces if (watch := piece.job.watch) is not None]
        if watches:
            owners = tuple(watch.owner for watch in watches)
            run = Run(self.began, self.gathered or ended, ended, self.rows, self.size, self.requests, owners)
            # Once, whose job has several pieces in it.
            for watch in dict.fromkeys(watches):
                watch.ran(run)


class OneShotScheduler:
    """A scheduler of batches: see `scheduler.Scheduler`.

    sizes: of a run, ascending. costs: what runs of these sizes take, as far as is known.
    seats: runs that go on at the same time; they share what is queued.
    longest: seconds that a run may take, if it holds more than the smallest size.
    fixed: every run is of the largest size that fits into memory, whoever asked for few. On a GPU that costs about as
    much; another size may change the last bits of a row, and has onnxruntime build cuDNN's plans anew
    (microsoft/onnxruntime#23006).
    """

    def __init__(
        self,
        name: str,
        program: OneShotProgram,
        *,
        sizes: Sequence[int],
        limits: Limits,
        policy: BatchPolicy,
        costs: CostModel,
        memory: BatchSizeLimit,
        seats: int = 1,
        longest: float = math.inf,
        fixed: bool = False,
    ) -> None:
        self.name = name
        self.answers: Answers[OneShotJob] = Answers()
        self.queue: JobQueue[OneShotJob] = JobQueue()
        self.costs = costs
        self.memory = memory
        self._program = program
        self._sizes = tuple(sizes)
        self._limits = limits
        self._policy = policy
        self._seats = seats
        self._longest = longest
        self._fixed = fixed
        # What the seats run, or are about to: rows are here from the moment that they are taken.
        self._running: dict[int, BatchStep] = {}
        # Rows of failed runs, to be run again in parts that are not mixed.
        self._again: deque[list[Piece]] = deque()
        self._last_arrival = 0.0
        # When the batch that is being gathered began to wait; None while nothing is queued.
        self._since: float | None = None
        # How many rows a run may hold, when that was last asked.
        self._most = self._sizes[-1]

    @property
    def seats(self) -> int:
        return self._seats

    @property
    def waiting(self) -> int:
        return len(self.queue) + len(self._again)

    # ---- the verbs

    def submit(self, job: OneShotJob, now: float) -> None:
        ahead = self.queue.ahead(job.rows, job.priority, self._sizes[-1])
        try:
            check_deadline(self.name, job, ahead, self, now)
        except Infeasible:
            self.costs.decay(now, idle=not self.queue and not self._running)
            raise
        check_queue(self.name, self.queue, job, ahead, self._limits, self)
        self.queue.add(job)
        self._last_arrival = now

    def next(self, now: float, seat: int) -> BatchStep | Wait:
        self.answers.depart(self.queue.departed(now), self.name)
        # First: should any of this fail, `abandon` finds whose rows were taken.
        step = self._running[seat] = BatchStep(self._program, now)
        if (wait := self._decide(step, now)) is not None:
            del self._running[seat]
            return wait
        step.rows = sum([piece.rows for piece in step.pieces])
        step.size = self.size(step.rows, now)
        step.due = now + self.costs.seconds(step.size)
        return step

    def _decide(self, step: BatchStep, now: float) -> Wait | None:
        """Take rows for a step; how long to wait instead, if it is too soon."""
        most = self.most_rows(now)
        self._take_again(step.pieces, most, now)
        if step.pieces:
            return None
        if not self.queue:
            self._since = None
            return IDLE
        if self._since is None:
            self._since = now
        if (wait := self._policy.wait(self._view(now))) is not None:
            return wait
        self._since = None
        self._take(step.pieces, most, now)
        return None

    def pending(self, seat: int) -> bool:
        return bool(self.waiting)

    def finish(self, step: BatchStep, now: float, seat: int) -> None:
        self.costs.learn(step.size, now - step.began, now)
        self._policy.ran(len(step.pieces) + len(self.queue), self._sizes, self.costs.seconds)
        step.tell(now)
        for job in deal(step.pieces, step.outputs):
            self.answers.finish(job, now)
        # Last: should any of this fail, `abandon` finds whose rows these are.
        del self._running[seat]

    def fail(self, step: BatchStep, error: Exception, now: float, seat: int) -> None:
        step.tell(now)
        told: ServerError = Internal(f"{self.name}: the run failed: {error}")
        parts: list[list[Piece]] = []
        if isinstance(error, DeviceLost):
            # Whatever is run again would fail as well.
            told = error
        elif isinstance(error, OutOfMemory | MemoryError):
            # The same rows again, half as many at a time.
            if self.memory.shrink(step.size, now):
                parts = [step.pieces]
            most = self.memory.most(now)
            log.warning("out of memory", lane=self.name, rows=step.rows, next_rows=most, reason=str(error))
            told = OutOfMemory(f"{self.name}: not even {step.rows} image fits into memory: {error}")
        elif isinstance(error, RuntimeError) and not isinstance(error, Overdue):
            # onnxruntime's: half of the requests at a time, until the guilty one is alone. One among n costs 2 log2(n)
            # runs, n of them 2 n.
            parts = halves(step.pieces)
        if parts and not isinstance(told, OutOfMemory):
            log.warning("run failed, its parts are tried", lane=self.name, rows=step.rows, reason=str(error))
        elif not parts:
            log.error("run failed", lane=self.name, rows=step.rows, exc_info=True)
        if parts:
            self._again.extendleft(reversed(parts))
        else:
            self._give_up(jobs_of(step.pieces), told)
        del self._running[seat]

    def abandon(self, error: ServerError, seat: int | None = None) -> None:
        for each in list(self._running) if seat is None else [seat]:
            if (step := self._running.pop(each, None)) is not None:
                self._give_up(jobs_of(step.pieces), error)
        if seat is None:
            for pieces in self._again:
                self.answers.fail(jobs_of(pieces), error)
            self._again.clear()
            self.answers.fail(self.queue.clear(), error)

    def _give_up(self, jobs: Sequence[OneShotJob], error: ServerError) -> None:
        """Answer jobs with an error, and nothing more of them is run."""
        self.queue.remove(jobs)
        self.answers.fail(jobs, error)

    # ---- what a run holds

    def most_rows(self, now: float) -> int:
        """How many rows the next run may hold: what fits into memory, and unless it is one row into `longest`."""
        self._most = self.memory.most(now)
        if not self._fixed:
            while self._most > self._sizes[0] and self.costs.seconds(self._most) > self._longest:
                # A size that is not run would be thought too long for ever.
                self.costs.decay(now, self._most)
                self._most = max(size for size in self._sizes if size < self._most)
        return self._most

    def size(self, rows: int, now: float) -> int:
        """How many rows a run for so many has."""
        return self.memory.most(now) if self._fixed else bucket(rows, self._sizes)

    def _view(self, now: float) -> View:
        return View(
            queued=len(self.queue),
            rows=self.queue.total_rows,
            now=now,
            since=now if self._since is None else self._since,
            last_arrival=self._last_arrival,
            sizes=self._sizes,
            seconds=self.costs.seconds,
        )

    def _take_again(self, pieces: list[Piece], most: int, now: float) -> None:
        """Add as much as a run may hold of the rows that have to be run again, not those whose callers have left."""
        while self._again and not pieces:
            failed = self._again[0]
            gone = [job for job in jobs_of(failed) if job.departed(now)]
            if gone:
                self.queue.remove(gone)
                self.answers.depart(gone, self.name)
            first, rest = cut([piece for piece in failed if not piece.job.answered], most)
            pieces += first
            if rest:
                self._again[0] = rest
            else:
                self._again.popleft()

    def _take(self, pieces: list[Piece], most: int, now: float) -> None:
        """Add as much of what is queued as a run may hold."""
        room = most
        if not self._fixed:
            rows, seconds = self.queue.total_rows, self.costs.seconds
            # Idle seats are those that run nothing, and the one that asks.
            if (idle := self._seats - len(self._running) + 1) > 1:
                rows = min(rows, share(rows, idle, enough(self._sizes, seconds)))
            room = fill(rows, most, self._sizes, seconds)
        for jobs in self.queue.order():
            while room and jobs:
                job = jobs[0]
                rows = min(room, job.waiting)
                pieces.append(Piece(job, job.taken, job.taken + rows))
                if not job.taken:
                    job.started = now
                self.queue.take(job, rows)
                room -= rows

    # ---- its pace, see `admission.Pace`

    def needed_seconds(self, rows: int, ahead: int, now: float) -> float:
        # The first seat that is free takes it; then the others share what is there.
        running = 0.0
        if len(self._running) == self._seats:
            running = max(0.0, min(step.due for step in self._running.values()) - now)
        own = self._run_seconds(min(rows, self._most))
        return running + (max(self.queue_seconds(ahead + rows), own) if ahead or rows > self._most else own)

    def queue_seconds(self, rows: int) -> float:
        whole, rest = divmod(rows, self._most)
        work = whole * self.costs.seconds(self._most) + (self._run_seconds(rest) if rest else 0.0)
        return work / self._seats

    @property
    def batch_seconds(self) -> float:
        return self.queue_seconds(self._sizes[-1])

    @property
    def row_seconds(self) -> float:
        return self.batch_seconds / self._sizes[-1]

    def _run_seconds(self, rows: int) -> float:
        return self.costs.seconds(self._most if self._fixed else bucket(rows, self._sizes))
