"""One role of one model version, as calls see it: its lanes, made and warmed up at load, and where a job belongs.

The costs of runs are measured here, on the machine that serves, and decide who takes a lane's turns.
"""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.batching import buckets
from ancestral_server.engine.costs import CostModel
from ancestral_server.engine.job import OneShotJob, Priority, RasterJob
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.memory_limit import BatchSizeLimit
from ancestral_server.engine.one_shot import OneShotScheduler
from ancestral_server.engine.policy import BatchPolicy, Immediate
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.runners import LoopRunner, LoopTuning, PoolRunner, Runner, ThreadRunner
from ancestral_server.engine.stats import LaneStats
from ancestral_server.errors import BundleError, OutOfMemory
from ancestral_server.metrics import LaneMetrics
from ancestral_server.runtime.program import OneShotProgram, RasterProgram, RowsLost

# How often a size is run at load: twice, since the first run is slow in itself; and again, up to so often, while that
# has taken less than so many seconds in all, since on a busy machine any short run may be slow. The least of them
# counts. Nobody measured what a look more brings; all of a role's sizes take a second longer at most.
LEAST_LOOKS, MOST_LOOKS, LOOK_SECONDS = 2, 8, 0.1


@dataclass(frozen=True, eq=False)
class Endpoint(ABC):
    """The lanes of a role."""

    stats: LaneStats

    @property
    @abstractmethod
    def by_device(self) -> Sequence[Sequence[Lane[Any]]]:
        """The lanes on each device, one of them in most servers."""

    @property
    def lanes(self) -> list[Lane[Any]]:
        """All of them, each once."""
        return [lane for lanes in self.by_device for lane in lanes]

    @property
    def healthy(self) -> bool:
        """Whether every lane of some device takes calls: one that has failed does not until it begins anew."""
        return any(all(lane.healthy for lane in lanes) for lanes in self.by_device)

    def start(self) -> None:
        # Asked for at a scrape, rather than told at every change; of the queues alone, since what held a lane would
        # outlive it.
        queues = [lane.scheduler.queue for lane in self.lanes]
        self.stats.metrics.queued.set_function(lambda: sum(queue.total_rows for queue in queues))
        for lane in self.lanes:
            lane.start()

    def on_health(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, on whatever thread, when the health of a lane changes."""
        for lane in self.lanes:
            lane.on_health = tell

    def close(self) -> None:
        """Stop at the next boundary; whoever still waits hears Unavailable. Blocks until running work ends."""
        for lane in self.lanes:
            lane.close()


class TakesOneShots(Protocol):
    """A one-shot role, on however many devices."""

    @property
    def rows_at_a_time(self) -> int:
        """How many rows of bulk are run at a time."""

    def submit(self, job: OneShotJob) -> None:
        """See `Lane.submit`."""


class TakesRasters(Protocol):
    """A raster role, on however many devices."""

    def submit(self, job: RasterJob) -> None:
        """See `Lane.submit`."""

    def begin_no_more(self, job: RasterJob) -> None:
        """See `RasterScheduler.begin_no_more`."""


@dataclass(frozen=True, eq=False)
class OneShotEndpoint(Endpoint):
    """Two lanes: one for calls that somebody waits for, one for bulk, on background workers."""

    interactive: Lane[OneShotJob]
    bulk: Lane[OneShotJob]
    # Larger calls go among the bulk, where they go first: several workers are sooner done with them than the event
    # loop, which has others to serve.
    most_interactive_rows: float
    # How many rows of bulk are run at a time.
    rows_at_a_time: int

    @property
    def by_device(self) -> Sequence[Sequence[Lane[OneShotJob]]]:
        return ((self.interactive, self.bulk),)

    def lane(self, job: OneShotJob) -> Lane[OneShotJob]:
        """Where a job belongs."""
        if job.priority is Priority.BATCH or job.rows > self.most_interactive_rows:
            return self.bulk
        return self.interactive

    def submit(self, job: OneShotJob) -> None:
        """See `Lane.submit`."""
        self.lane(job).submit(job)


@dataclass(frozen=True, eq=False)
class RasterEndpoint(Endpoint):
    """One lane on background workers, since requests of all priorities share its slots."""

    lane: Lane[RasterJob]
    scheduler: RasterScheduler

    @property
    def by_device(self) -> Sequence[Sequence[Lane[RasterJob]]]:
        return ((self.lane,),)

    def submit(self, job: RasterJob) -> None:
        """See `Lane.submit`."""
        self.lane.submit(job)

    def begin_no_more(self, job: RasterJob) -> None:
        """See `RasterScheduler.begin_no_more`."""
        self.lane.decide(partial(self.scheduler.begin_no_more, job))


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What the endpoints of a server have in common."""

    limits: Limits
    # Rows of a one-shot run, and slots of a sampler's seat, at most.
    max_batch: int
    slots: int
    # A policy of its own for every lane of calls that somebody waits for.
    policy: Callable[[], BatchPolicy]
    pool: WorkerPool
    # All runs of a lane have one size, and no two go on at a time: on a GPU.
    fixed: bool = False
    loop: LoopTuning = field(default_factory=LoopTuning)


def one_shot_endpoint(
    name: str,
    program: OneShotProgram,
    single_thread: Callable[[], OneShotProgram],
    metrics: LaneMetrics,
    settings: EndpointSettings,
    stats: LaneStats | None = None,
) -> OneShotEndpoint:
    """Measure a program and make its lanes. OutOfMemory if not even one row fits.

    stats: of those on other devices, where there are any; with the same metrics.

    single_thread: makes the same program on a session that computes on the thread that calls it.

    Where a row takes no longer than a moment, both lanes run that: the event loop is not held up by it, and two runs
    on a core each get nearly twice as much done as two threads on one run, which meet after every operation. Else there
    is one program for both, on all threads, and no second copy of its weights.
    """
    sizes, fixed, pool = buckets(settings.max_batch), settings.fixed, settings.pool
    stats = stats or LaneStats(metrics)
    memories = BatchSizeLimit(sizes), BatchSizeLimit(sizes)
    costs = measure(sizes, memories, partial(_run_blank, program), metrics)
    least = sizes[-1] if fixed else sizes[0]
    quick = costs.seconds(least) <= settings.loop.call_seconds
    if quick:
        light = single_thread()
        light_costs = measure(sizes, memories, partial(_run_blank, light), metrics)
        # One thread may take longer for it than all.
        quick = light_costs.seconds(least) <= settings.loop.run_seconds
        if quick:
            program, costs = light, light_costs
    longest, most_rows = math.inf, math.inf
    if quick:
        longest = settings.loop.run_seconds
        most_rows = max([least, *(size for size in sizes if costs.seconds(size) <= settings.loop.call_seconds)])

    def scheduler(
        memory: BatchSizeLimit, policy: BatchPolicy, costs: CostModel, longest: float, seats: int = 1
    ) -> OneShotScheduler:
        return OneShotScheduler(
            name,
            program,
            sizes=sizes,
            limits=settings.limits,
            policy=policy,
            costs=costs,
            memory=memory,
            seats=seats,
            longest=longest,
            fixed=fixed,
        )

    def lane(
        scheduler: OneShotScheduler, runner: Runner, called: Callable[[float], None] = lambda now: None
    ) -> Lane[OneShotJob]:
        def probe() -> None:
            _run_blank(program, scheduler.size(1, time.monotonic()))

        return Lane(name, scheduler, runner, probe=probe, stats=stats, called=called)

    policy = settings.policy()
    interactive = scheduler(memories[0], policy, costs, longest)
    seats = pool.threads if quick and not fixed else 1
    bulk = scheduler(memories[1], Immediate(), costs.copy(), pool.tuning.bulk_run_seconds, seats)
    now = time.monotonic()
    runner = LoopRunner(settings.loop, lambda: policy.crowd) if quick else ThreadRunner()
    return OneShotEndpoint(
        stats,
        interactive=lane(interactive, runner, pool.called),
        bulk=lane(bulk, PoolRunner(pool)),
        most_interactive_rows=most_rows,
        rows_at_a_time=seats * bulk.most_rows(now),
    )


def raster_endpoint(
    name: str,
    program: RasterProgram,
    metrics: LaneMetrics,
    settings: EndpointSettings,
    stats: LaneStats | None = None,
) -> RasterEndpoint:
    """Measure a program and make its lane. OutOfMemory if not even one sample fits. stats: as of one-shot endpoints.

    A program that computes on the thread that calls it shares the background workers with others, a seat for each. One
    whose rows go on by themselves, on a GPU, has a thread that begins a row and waits for it; its memory is its own
    from the start, and its bytes depend on no size.
    """
    sizes = buckets(settings.slots)
    fixed = settings.fixed and not program.overlaps
    memory = BatchSizeLimit(sizes[-1:] if program.overlaps else sizes)
    scheduler = RasterScheduler(
        name,
        program,
        slots=settings.slots,
        limits=settings.limits,
        costs=measure(sizes, [memory], partial(_run_blank_row, program), metrics),
        memory=memory,
        seats=1 if settings.fixed or program.overlaps else settings.pool.threads,
        fixed=fixed,
    )

    def probe() -> None:
        _run_blank_row(program, 1)

    stats = stats or LaneStats(metrics)
    runner = ThreadRunner() if program.overlaps else PoolRunner(settings.pool)
    lane = Lane(name, scheduler, runner, probe=probe, stats=stats)
    return RasterEndpoint(stats, lane, scheduler)


def measure(
    sizes: Sequence[int],
    memories: Sequence[BatchSizeLimit],
    run: Callable[[int], float],
    metrics: LaneMetrics,
) -> CostModel:
    """What runs of these sizes take, each looked at several times; so no caller pays for a first run either.

    run: seconds of a run of so many rows. Sizes that do not fit into memory bound `memories`; OutOfMemory if not even
    the first one fits.
    """
    costs = CostModel()
    for size in sizes:
        now = time.monotonic()
        if size > memories[0].most(now):
            break
        try:
            seen: list[float] = []
            while len(seen) < LEAST_LOOKS or (len(seen) < MOST_LOOKS and sum(seen) < LOOK_SECONDS):
                seen.append(run(size))
            costs.learn(size, min(seen), now)
        except OutOfMemory:
            metrics.out_of_memory.inc()
            smaller = [memory.shrink(size, now) for memory in memories]
            if not all(smaller):
                raise
            # What the run that did not fit had taken goes back to others at the end of the next one.
            with contextlib.suppress(OutOfMemory):
                run(memories[0].most(now))
            break
    return costs


def _run_blank(program: OneShotProgram, rows: int) -> float:
    """Run so many rows, and check what comes; the seconds of the run."""
    inputs = {meaning: program.blank(meaning, rows) for meaning in program.inputs}
    began = time.monotonic()
    outputs = program.run(inputs, list(program.outputs))
    seconds = time.monotonic() - began
    program.check_outputs(outputs, rows)
    return seconds


def _run_blank_row(program: RasterProgram, rows: int) -> float:
    """Paint a row of so many samples, and check what comes; its seconds."""
    painting = program.painting(rows)
    painting.place(np.arange(rows), {})
    began = time.monotonic()
    try:
        painting.begin_row(np.zeros(rows, np.int64), [rows])
        row, likelihood = painting.end_row()
    except RowsLost as error:
        raise BundleError(program.role.graph, f"role {program.role.name}: {error}") from error
    seconds = time.monotonic() - began
    program.check_row(row, likelihood, rows)
    return seconds
