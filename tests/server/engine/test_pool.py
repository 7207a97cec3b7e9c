"""Background workers: how many at a time, in which order, and what single calls change. Every wait is for an event."""

from __future__ import annotations

import gc
import os
import queue
import threading
import weakref
from collections.abc import Iterator

import pytest

from ancestral_server.engine.pool import PoolTuning, Seat, WorkerPool
from ancestral_server.engine.scheduler import IDLE, Wait
from waiting import PATIENCE, until

CALM = PoolTuning(free_seconds=0.0)
# Single calls never end.
BUSY = PoolTuning(free_seconds=3600.0)


@pytest.fixture
def kept_to(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[list[int]]:
    """A machine of two cores, and what threads of it were kept to, in order."""
    found: queue.Queue[list[int]] = queue.Queue()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: found.put(list(cores)), raising=False)
    return found


class Row:
    """A seat that has one turn after another, each of which begins and then ends when it is told."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self.began = threading.Semaphore(0)
        self.end = threading.Semaphore(0)
        self.last = False
        self.seat = Seat(self._turn)
        pool.enter()

    def _turn(self) -> Wait | None:
        self.began.release()
        assert self.end.acquire(timeout=PATIENCE)
        return IDLE if self.last else None

    def begin(self) -> None:
        self._pool.offer([self.seat], 1)

    def begun(self) -> None:
        assert self.began.acquire(timeout=PATIENCE)

    @property
    def waits(self) -> bool:
        return not self.began.acquire(blocking=False)

    def leave(self) -> None:
        self.last = True
        self.end.release(100)
        self._pool.leave([self.seat])


@pytest.fixture
def rows() -> Iterator[list[Row]]:
    """Those of a test, which have left at its end."""
    made: list[Row] = []
    yield made
    for row in made:
        row.leave()


def pool_of(threads: int, rows: list[Row], count: int, tuning: PoolTuning = CALM) -> WorkerPool:
    pool = WorkerPool(threads, tuning)
    rows += [Row(pool) for _ in range(count)]
    return pool


def test_as_many_at_a_time_as_workers_first_come_first_served(rows: list[Row]) -> None:
    pool_of(2, rows, 4)
    for row in rows:
        row.begin()
    rows[0].begun()
    rows[1].begun()
    assert rows[2].waits
    assert rows[3].waits
    # Its next turn is after those of all who wait.
    rows[1].end.release()
    rows[2].begun()
    assert rows[3].waits
    rows[0].end.release()
    rows[3].begun()
    rows[2].end.release()
    rows[1].begun()


def test_while_single_calls_come_a_core_is_left(kept_to: queue.Queue[list[int]], rows: list[Row]) -> None:
    pool = pool_of(2, rows, 2, BUSY)
    pool.called(0.0 if pool._clock() < BUSY.free_seconds else pool._clock())
    for row in rows:
        row.begin()
    rows[0].begun()
    assert kept_to.get(timeout=PATIENCE) == [1]
    assert rows[1].waits
    # Nobody has a core to himself: they take turns on it.
    rows[0].end.release()
    rows[1].begun()
    assert rows[0].waits


def test_once_they_have_ended_all_cores_are_used_again(kept_to: queue.Queue[list[int]], rows: list[Row]) -> None:
    # So long that the first turn surely comes within it; nobody tells that it is over.
    now, moved = [100.0], threading.Event()
    pool = WorkerPool(2, PoolTuning(free_seconds=0.05), clock=lambda: 200.0 if moved.is_set() else now[0])
    rows += [Row(pool) for _ in range(2)]
    pool.called(100.0)
    for row in rows:
        row.begin()
    rows[0].begun()
    assert kept_to.get(timeout=PATIENCE) == [1]
    assert rows[1].waits
    moved.set()
    rows[1].begun()
    rows[1].end.release()
    rows[1].begun()
    rows[0].end.release()
    rows[0].begun()
    assert kept_to.get(timeout=PATIENCE) == [0, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_where_there_is_no_core_to_leave_all_go_on(
    kept_to: queue.Queue[list[int]], monkeypatch: pytest.MonkeyPatch, rows: list[Row], count: int
) -> None:
    # One core, and more cores than there are workers.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1 if count == 1 else 4)))
    pool = pool_of(count, rows, count, BUSY)
    pool.called(pool._clock())
    for row in rows:
        row.begin()
    for row in rows:
        row.begun()
    assert kept_to.empty()


def test_what_comes_during_a_turn_gets_another_one() -> None:
    pool, began, end = WorkerPool(1, CALM), threading.Semaphore(0), threading.Semaphore(0)

    def turn() -> Wait:
        began.release()
        assert end.acquire(timeout=PATIENCE)
        return IDLE

    seat = Seat(turn)
    pool.enter()
    pool.offer([seat], 1)
    assert began.acquire(timeout=PATIENCE)
    pool.offer([seat], 1)
    end.release()
    assert began.acquire(timeout=PATIENCE)
    end.release()
    pool.leave([seat])


def test_a_seat_that_waits_for_a_time_or_for_company_gets_its_turn_then() -> None:
    waits = [Wait(0.001, 5), Wait(None, 5), IDLE]
    pool, turns = WorkerPool(1, CALM), threading.Semaphore(0)

    def turn() -> Wait:
        turns.release()
        return waits.pop(0)

    seat = Seat(turn)
    pool.enter()
    pool.offer([seat], 1)
    # At once, and when the time is over.
    assert turns.acquire(timeout=PATIENCE)
    assert turns.acquire(timeout=PATIENCE)
    # Told until it sleeps; a turn of which it did not sleep yet would be one more.
    while seat.busy:
        pass
    pool.offer([seat], 4)
    assert not seat.busy
    pool.offer([seat], 5)
    assert turns.acquire(timeout=PATIENCE)
    pool.leave([seat])


def test_the_workers_end_with_the_last_lane_and_begin_with_the_next() -> None:
    pool = WorkerPool(2, CALM)
    for _ in range(2):
        row, other = Row(pool), Row(pool)
        workers = pool._team.threads
        assert len(workers) == 2
        row.leave()
        other.begin()
        other.begun()
        other.leave()
        for worker in workers:
            worker.join(PATIENCE)
            assert not worker.is_alive()


def test_a_worker_that_waits_keeps_no_lane_that_is_gone(rows: list[Row]) -> None:
    # Of the two lanes the other keeps the worker.
    pool = pool_of(1, rows, 1)
    lane = Row(pool)
    lane.last = True
    lane.begin()
    lane.begun()
    lane.leave()
    gone = weakref.ref(lane)
    del lane

    def collected() -> bool:
        gc.collect()
        return gone() is None

    until(collected)
