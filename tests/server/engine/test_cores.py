"""Turns at computing rows: how many at a time, in which order, and what single calls change."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ancestral_server.engine import cores as module
from ancestral_server.engine.cores import Cores


@pytest.fixture
def kept_to(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A machine of two cores, and what threads of it were kept to, in order."""
    found: list[list[int]] = []
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: found.append(list(cores)), raising=False)
    return found


class Row(threading.Thread):
    """Computes until it is told to end."""

    def __init__(self, cores: Cores) -> None:
        super().__init__(daemon=True)
        self._cores = cores
        self.began = threading.Event()
        self.end = threading.Event()
        self.start()

    def run(self) -> None:
        with self._cores.turn():
            self.began.set()
            self.end.wait(10)


def test_as_many_rows_as_cores_first_come_first_served(kept_to: list[list[int]]) -> None:
    cores = Cores(2)
    rows = []
    for _ in range(4):
        rows.append(Row(cores))
        time.sleep(0.02)
    assert [row.began.is_set() for row in rows] == [True, True, False, False]
    rows[1].end.set()
    assert rows[2].began.wait(10)
    assert not rows[3].began.is_set()
    rows[0].end.set()
    assert rows[3].began.wait(10)
    for row in rows:
        row.end.set()
        row.join()
    assert not kept_to


def test_single_calls_keep_a_core_free_while_they_come(
    kept_to: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FREE_SECONDS", 0.3)
    cores = Cores(2)
    first = Row(cores)
    assert first.began.wait(10)
    called = time.monotonic()
    cores.called(called)
    second = Row(cores)
    # Nobody calls any more, and nobody says so either.
    assert second.began.wait(10)
    assert time.monotonic() - called >= 0.3
    for row in (first, second):
        row.end.set()
        row.join()
    assert not kept_to


def test_a_row_beside_single_calls_keeps_off_the_core_that_is_left(
    kept_to: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = Cores(2)
    cores.called(time.monotonic())
    monkeypatch.setattr(module, "FREE_SECONDS", 60.0)
    with cores.turn():
        assert kept_to == [[1]]
    with cores.turn():
        assert kept_to == [[1]]
    monkeypatch.setattr(module, "FREE_SECONDS", 0.0)
    with cores.turn():
        assert kept_to == [[1], [0, 1]]


@pytest.mark.parametrize("count", [1, 3])
def test_where_there_is_no_core_to_leave_rows_go_on(
    kept_to: list[list[int]], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    # One core, and more cores than rows are computed on.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1 if count == 1 else 4)))
    cores = Cores(count)
    cores.called(time.monotonic())
    rows = [Row(cores) for _ in range(count)]
    assert all(row.began.wait(10) for row in rows)
    for row in rows:
        row.end.set()
        row.join()
    assert not kept_to


def test_a_row_that_fails_leaves_its_core() -> None:
    cores = Cores(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"), cores.turn():
            raise ValueError("no")
