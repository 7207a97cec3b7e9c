"""What every lane promises, whoever takes its turns and however it waits for company; and what each runner does in its
own way. Programs run when they are told to, so every wait is for an event.
"""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.job import OneShotJob, Priority
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning, BatchPolicy, Immediate
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.runners import LoopRunner, LoopTuning, PoolRunner, Runner, ThreadRunner
from ancestral_server.errors import DeadlineExceeded, Infeasible, Internal, OutOfMemory, Overloaded, Unavailable
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.program import Meaning
from fakeprograms import IMAGE, MEAN, Array, Doubler, batch_lane, double, run
from waiting import PATIENCE

RUNNERS: dict[str, Callable[[], Runner]] = {
    "loop": LoopRunner,
    "thread": ThreadRunner,
    # Goes from the event loop to a thread and back, again and again.
    "both": lambda: LoopRunner(crowd=cycle((1, 3)).__next__),
    "pool": lambda: PoolRunner(WorkerPool(2)),
}
POLICIES: dict[str, Callable[[], BatchPolicy]] = {
    "immediate": Immediate,
    "adaptive": lambda: Adaptive(Arrivals().coming, AdaptiveTuning(longest=0.005)),
}
# Nobody is refused because the machine is slow.
OPEN = Limits(images=10**6, calls=10**6, seconds=math.inf)


class Watched(Doubler):
    """A doubler that tells on which thread it ran, and when a run has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.begun = threading.Semaphore(0)

    def run(self, inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        self.threads.append(threading.get_ident())
        self.begun.release()
        return super().run(inputs, wanted)


@pytest.fixture
def program() -> Watched:
    return Watched()


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Runner:
    return RUNNERS[request.param]()


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> BatchPolicy:
    return POLICIES[request.param]()


@pytest.fixture
def lane(program: Watched, runner: Runner, policy: BatchPolicy) -> Iterator[Lane[OneShotJob]]:
    seats = 2 if isinstance(runner, PoolRunner) else 1
    with batch_lane(program, OPEN, runner=runner, policy=policy, seats=seats) as lane:
        yield lane


async def begun(program: Watched) -> None:
    assert await asyncio.to_thread(program.begun.acquire, timeout=PATIENCE)


async def told(lane: Lane[Any]) -> asyncio.Queue[bool]:
    """The lane's health, as it is told."""
    loop, health = asyncio.get_running_loop(), asyncio.Queue[bool]()

    def tell() -> None:
        loop.call_soon_threadsafe(health.put_nowait, lane.healthy)

    lane.on_health = tell
    return health


def test_everybody_gets_the_answer_to_his_own_question(lane: Lane[OneShotJob]) -> None:
    async def work() -> None:
        alone = [await double(lane, value) for value in (1, 2)]
        assert alone == [[2.0], [4.0]]
        together = await asyncio.gather(*(double(lane, *range(n, 2 * n)) for n in range(14, 40)))
        assert together == [[2.0 * value for value in range(n, 2 * n)] for n in range(14, 40)]
        assert lane.stats.requests == 28
        assert lane.stats.rows == 2 + sum(range(14, 40))
        assert not lane.queued

    run(work())


def test_a_guilty_request_fails_alone(lane: Lane[OneShotJob]) -> None:
    async def work() -> None:
        asked = [double(lane, value) for value in (1, 2, 13, 4, 5)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(outcomes[2], Internal)
        assert [*outcomes[:2], *outcomes[3:]] == [[2.0], [4.0], [8.0], [10.0]]
        assert lane.stats.failures == 1
        assert lane.healthy

    run(work())


def test_what_does_not_fit_into_memory_is_run_in_parts(lane: Lane[OneShotJob], program: Watched) -> None:
    async def work() -> None:
        program.fits = 2
        assert await double(lane, *range(20, 40)) == [2.0 * value for value in range(20, 40)]
        assert lane.stats.metrics.out_of_memory._value.get() > 0

    run(work())


def test_what_has_no_time_left_is_refused_before_it_is_run(lane: Lane[OneShotJob], program: Watched) -> None:
    async def work() -> None:
        with pytest.raises((Infeasible, DeadlineExceeded)):
            await double(lane, 7, deadline=-1.0)
        assert [7] not in program.runs
        assert lane.stats.metrics._refused["deadline"]._value.get() == 1

    run(work())


@pytest.mark.parametrize("error", [SystemExit("no"), KeyboardInterrupt(), GeneratorExit("odd")])
def test_a_lane_that_fails_answers_turns_health_and_begins_anew(
    lane: Lane[OneShotJob], program: Watched, error: BaseException
) -> None:
    async def work() -> None:
        health = await told(lane)
        for _ in range(lane.seats):
            # One seat after the other, if there are two; none comes back before the test says so.
            program.error, program.fits = error, 0
            with pytest.raises(Internal, match="toy failed"):
                await double(lane, 1)
            if lane.seats > 1 and lane.healthy:
                assert health.empty()
                return
        assert await health.get() is False
        with pytest.raises(Unavailable, match="is being restarted"):
            await double(lane, 3)
        program.fits = 10
        assert await health.get() is True
        assert await double(lane, 4) == [8.0]
        assert lane.stats.metrics.restarts._value.get() == 1

    run(work())


def test_a_lane_stays_down_until_a_run_succeeds(program: Watched, runner: Runner) -> None:
    async def work() -> None:
        with batch_lane(program, OPEN, runner=runner, seats=1) as lane:
            health = await told(lane)
            await double(lane, 1)
            await begun(program)
            program.fits = 0
            program.error = SystemExit("no")
            with pytest.raises(Internal):
                await double(lane, 1)
            assert await health.get() is False
            # The first probe, a tenth of a second later, and the next one do not fit.
            for _ in range(3):
                await begun(program)
            assert health.empty()
            with pytest.raises(Unavailable):
                await double(lane, 1)
            program.fits = 10
            assert await health.get() is True
            assert await double(lane, 4) == [8.0]

    run(work())


@pytest.mark.parametrize("verb", ["next", "finish", "fail"])
def test_a_failure_of_a_decision_loses_nobody(
    lane: Lane[OneShotJob], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(lane.scheduler, verb, lambda *_: 1 / 0)
            with pytest.raises((Internal, Unavailable)):
                await double(lane, 1, 2, 3, 13, 5)
        while not lane.healthy:
            await asyncio.sleep(0)
        assert await double(lane, 4) == [8.0]
        assert not lane.queued

    run(work())


def test_a_failure_to_answer_loses_nobody(lane: Lane[OneShotJob], monkeypatch: pytest.MonkeyPatch) -> None:
    answered, failures = type(lane.stats).answered, [ZeroDivisionError("once")]

    def fail_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        answered(*arguments)

    async def work() -> None:
        monkeypatch.setattr(type(lane.stats), "answered", fail_once)
        with pytest.raises(Internal, match="once"):
            await double(lane, 1, 2, 3)
        while not lane.healthy:
            await asyncio.sleep(0)
        assert await double(lane, 4) == [8.0]

    run(work())


def test_a_lane_that_is_down_closes_at_once(program: Watched, runner: Runner) -> None:
    async def work() -> None:
        with batch_lane(program, OPEN, runner=runner) as lane:
            health = await told(lane)
            program.error = SystemExit("no")
            with pytest.raises(Internal):
                await double(lane, 1)
            assert await health.get() is False
            await asyncio.to_thread(lane.close)
            with pytest.raises(Unavailable, match="is being shut down"):
                await double(lane, 1)

    run(work())


@pytest.mark.parametrize("runner", ["thread", "pool"], indirect=True)
def test_closing_answers_whoever_still_waits(lane: Lane[OneShotJob], program: Watched) -> None:
    async def work() -> None:
        program.gate.clear()
        running = [asyncio.create_task(double(lane, *[value] * 4)) for value in range(1, 1 + lane.seats)]
        for _ in running:
            await begun(program)
        waiting = asyncio.create_task(double(lane, 2))
        while not lane.queued:
            await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        # From then on nobody is let in.
        while True:
            try:
                lane.submit(OneShotJob(1, asyncio.get_running_loop().create_future()))
            except Unavailable:
                break
            await asyncio.sleep(0)
        program.gate.set()
        await closing
        assert [await task for task in running] == [[2.0 * value] * 4 for value in range(1, 1 + lane.seats)]
        with pytest.raises(Unavailable, match="is being shut down"):
            await waiting
        assert not lane.turns

    run(work())


def test_whoever_waits_for_company_when_the_lane_closes_is_answered(program: Watched, runner: Runner) -> None:
    async def work() -> None:
        # The first batch is a probe, which waits for whoever comes: half an hour.
        policy = Adaptive(Arrivals().coming, AdaptiveTuning(longest=4000.0))
        with batch_lane(program, OPEN, runner=runner, policy=policy) as lane:
            waiting = asyncio.create_task(double(lane, 1))
            while not lane.queued:
                await asyncio.sleep(0)
            await asyncio.to_thread(lane.close)
            with pytest.raises(Unavailable):
                await waiting

    run(work())


def test_company_that_is_complete_ends_the_wait(program: Watched, runner: Runner) -> None:
    async def work() -> None:
        policy = Adaptive(Arrivals().coming, AdaptiveTuning(longest=4000.0))
        with batch_lane(program, OPEN, runner=runner, policy=policy) as lane:
            # More than four would not fit a run.
            answers = await asyncio.gather(*(double(lane, value) for value in (1, 2, 3, 4)))
            assert answers == [[2.0], [4.0], [6.0], [8.0]]
            assert program.runs == [[1, 2, 3, 4]]

    run(work())


def test_an_answer_is_kept_by_nobody_but_its_caller(lane: Lane[OneShotJob]) -> None:
    """An array of onnxruntime's keeps the memory of a whole batch, so nothing may wait for the garbage collector."""

    async def work() -> None:
        inputs = {IMAGE: np.zeros((1, 1), np.uint8)}
        job = OneShotJob(1, asyncio.get_running_loop().create_future(), inputs=inputs, wanted=[MEAN])
        await ask(lane, job)
        answer = weakref.ref(job.pieces[MEAN][0])
        del job
        # Whoever took the turn is done with it in a moment.
        while answer() is not None:
            await asyncio.sleep(0)

    gc.disable()
    try:
        run(work())
    finally:
        gc.enable()


def test_everybody_is_answered_rightly_and_once(lane: Lane[OneShotJob], program: Watched) -> None:
    """Of all sizes and priorities, some of whom leave or expire."""
    random = np.random.default_rng(0)

    async def caller() -> int:
        answered = 0
        for _ in range(30):
            values = [int(v) for v in random.integers(14, 250, random.integers(1, 30))]
            priority = Priority.BATCH if random.random() < 0.5 else Priority.INTERACTIVE
            deadline = float(random.choice([0.0005, 0.002, 60]))
            task = asyncio.create_task(double(lane, *values, priority=priority, deadline=deadline))
            if random.random() < 0.2:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled() or isinstance(task.exception(), DeadlineExceeded | Infeasible | Overloaded):
                continue
            assert task.result() == [2.0 * value for value in values]
            answered += 1
        return answered

    async def work() -> None:
        # So it refuses what other threads have no business doing.
        asyncio.get_running_loop().set_debug(True)
        answered = sum(await asyncio.gather(*(caller() for _ in range(8))))
        while lane.queued or lane.turns:
            await asyncio.sleep(0)
        assert lane.healthy
        assert lane.stats.metrics.restarts._value.get() == 0
        assert lane.stats.requests >= answered > 0
        sizes, told = lane.stats.sizes(), lane.stats.metrics
        assert told.batch_size.total == sum(rows * runs.count for rows, runs in sizes)
        assert sum(told.batch_size.counts) == sum(runs.count for _, runs in sizes)
        assert sum(told.compute_seconds.counts) == lane.stats.requests

    run(work())


# ---- each in its own way


def test_the_event_loop_runs_a_call_where_it_stands(program: Watched) -> None:
    async def work() -> None:
        with batch_lane(program, OPEN, runner=LoopRunner(), policy=Immediate()) as lane:
            inputs = {IMAGE: np.array([[3]], np.uint8)}
            job = OneShotJob(1, asyncio.get_running_loop().create_future(), inputs=inputs, wanted=[MEAN])
            lane.submit(job)
            # No thread, and not even a turn of the event loop, lies between the two.
            assert job.future.done()
            assert await asyncio.gather(*(double(lane, value) for value in range(20, 30))) == [
                [2.0 * value] for value in range(20, 30)
            ]
        assert set(program.threads) == {threading.get_ident()}

    run(work())


def test_closing_in_the_middle_of_a_run_of_the_event_loops_runs_nothing_twice(
    program: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = LoopRunner()

    def close(lane: Lane[OneShotJob]) -> None:
        assert program.begun.acquire(timeout=PATIENCE)
        lane.close()

    async def work() -> None:
        with batch_lane(program, OPEN, runner=runner, policy=Immediate()) as lane:
            # The run ends when the lane has begun to close.
            program.gate.clear()
            monkeypatch.setattr(runner, "close", program.gate.set)
            closing = asyncio.create_task(asyncio.to_thread(close, lane))
            await asyncio.sleep(0)
            assert await double(lane, 5) == [10.0]
            await closing
            assert program.runs == [[5]]
            with pytest.raises(Unavailable):
                await double(lane, 6)

    run(work())


def test_between_two_runs_the_event_loop_has_its_turn(program: Watched) -> None:
    async def work() -> None:
        with batch_lane(program, OPEN, runner=LoopRunner(), policy=Immediate()) as lane:
            large = asyncio.create_task(double(lane, *range(20, 30)))
            await asyncio.sleep(0)
            assert len(program.runs) == 1
            # Another call comes meanwhile, and has its turn before the rest of the large one.
            assert await double(lane, 1) == [2.0]
            assert len(program.runs) == 2 + (1 in program.runs[-1])
            assert not large.done()
            await large

    run(work())


def test_a_lane_whose_runs_have_become_long_goes_to_a_thread_for_good(program: Watched) -> None:
    seconds, pace = [0.0], [0.0]

    def clock() -> float:
        # Every look at it, before and after a turn, is so much later.
        seconds[0] += pace[0]
        return seconds[0]

    async def work() -> None:
        tuning = LoopTuning(slow_seconds=0.5, slow_turns=3)
        with batch_lane(program, OPEN, runner=LoopRunner(tuning, clock=clock), policy=Immediate()) as lane:
            here = threading.get_ident()
            for pace[0] in (1.0, 1.0, 0.1, 1.0, 1.0):
                assert await double(lane, 1) == [2.0]
            assert set(program.threads) == {here}
            assert await double(lane, 1) == [2.0]
            program.threads.clear()
            for value in range(1, 5):
                assert await double(lane, value) == [2.0 * value]
            assert here not in program.threads

    run(work())


def test_while_calls_come_together_a_thread_runs_them_and_then_the_event_loop_again(program: Watched) -> None:
    crowd = [1]

    async def work() -> None:
        here = threading.get_ident()
        with batch_lane(program, OPEN, runner=LoopRunner(crowd=lambda: crowd[0]), policy=Immediate()) as lane:
            assert await double(lane, 1) == [2.0]
            crowd[0] = LoopTuning().crowd
            # It notices after a turn.
            assert await double(lane, 2) == [4.0]
            assert set(program.threads) == {here}
            for value in range(3, 6):
                assert await double(lane, value) == [2.0 * value]
            assert here not in program.threads[2:]
            crowd[0] = 1
            await double(lane, 6)
            program.threads.clear()
            for value in range(7, 10):
                assert await double(lane, value) == [2.0 * value]
            assert set(program.threads) == {here}

    run(work())


def test_two_workers_run_bulk_at_a_time(program: Watched) -> None:
    async def work() -> None:
        program.gate.clear()
        with batch_lane(program, OPEN, runner=PoolRunner(WorkerPool(2)), policy=Immediate(), seats=2) as lane:
            task = asyncio.create_task(double(lane, *range(20, 60), priority=Priority.BATCH))
            for _ in range(2):
                await begun(program)
            assert lane.turns == 2
            program.gate.set()
            assert await task == [2.0 * value for value in range(20, 60)]
            assert lane.stats.requests == 1
        assert len(set(program.threads)) == 2

    run(work())


def test_rows_that_are_run_again_wake_a_worker_that_idles(program: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is queued: a run of 4 rows has not fitted into memory, and its halves are run at the same time."""
    run_any = program.run

    def run_two(inputs: Mapping[Meaning, Array], wanted: Sequence[Meaning]) -> dict[Meaning, Array]:
        if len(inputs[IMAGE]) > 2:
            raise OutOfMemory("out of memory: the fake is full")
        return run_any(inputs, wanted)

    async def work() -> None:
        monkeypatch.setattr(program, "run", run_two)
        program.gate.clear()
        with batch_lane(program, OPEN, runner=PoolRunner(WorkerPool(2)), policy=Immediate(), seats=2) as lane:
            task = asyncio.create_task(double(lane, 20, 21, 22, 23, priority=Priority.BATCH))
            for _ in range(2):
                await begun(program)
            assert lane.turns == 2
            program.gate.set()
            assert await task == [40.0, 42.0, 44.0, 46.0]

    run(work())


def test_a_seat_that_fails_fails_its_own_and_the_lane_goes_on(program: Watched) -> None:
    async def work() -> None:
        runner = PoolRunner(WorkerPool(2))
        with batch_lane(program, OPEN, runner=runner, policy=Immediate(), seats=2) as lane:
            health = await told(lane)
            program.gate.clear()
            tasks = [asyncio.create_task(double(lane, *[value] * 4)) for value in (20, 30)]
            for _ in tasks:
                await begun(program)
            program.error = SystemExit("no")
            program.gate.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(outcome, Internal) for outcome in outcomes) == 1
            assert await double(lane, *range(20, 60)) == [2.0 * value for value in range(20, 60)]
            assert health.empty()
            assert lane.stats.metrics.restarts._value.get() == 1

    run(work())
