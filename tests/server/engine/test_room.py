from __future__ import annotations

import pytest

from ancestral_server.engine.policy import parts, queue_limit, restart_delay
from ancestral_server.engine.room import GROW_SECONDS, Room


def test_a_run_that_does_not_fit_halves_the_next_and_time_doubles_them_again() -> None:
    now = 0.0
    room = Room((1, 2, 4, 6), clock=lambda: now)
    assert room.most == 6
    assert room.shrink(6)
    assert room.most == 2
    now = 0.9 * GROW_SECONDS
    assert room.most == 2
    now = GROW_SECONDS
    assert room.most == 4
    now = 1.5 * GROW_SECONDS
    assert room.most == 4
    now = 2 * GROW_SECONDS
    assert room.most == 6
    now = 1e9
    assert room.most == 6


def test_the_smallest_run_cannot_shrink() -> None:
    room = Room((1, 2))
    assert room.shrink(2)
    assert not room.shrink(1)
    assert room.most == 1


@pytest.mark.parametrize(
    ("rows", "most", "sizes", "runs"),
    [
        (5, 8, (1, 2, 4, 8), [8]),
        (5, 4, (1, 2, 4, 8), [4, 1]),
        (7, 2, (1, 2, 4, 8), [2, 2, 2, 1]),
        # Never more slots than there are.
        (11, 8, (1, 2, 4, 8, 11), [8, 3]),
    ],
)
def test_parts_hold_all_rows(rows: int, most: int, sizes: tuple[int, ...], runs: list[int]) -> None:
    assert parts(rows, most, sizes) == runs


def test_a_queue_may_hold_a_batch_the_floor_or_as_much_as_the_newcomer() -> None:
    assert queue_limit(floor=0.05, batch=0.01, own=0.001) == 0.05
    assert queue_limit(floor=0.05, batch=0.3, own=0.001) == 0.3
    assert queue_limit(floor=0.05, batch=0.3, own=5.0) == 10.0


def test_restarts_are_further_and_further_apart_but_never_given_up() -> None:
    assert [restart_delay(failures) for failures in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert restart_delay(1000) == 30.0
