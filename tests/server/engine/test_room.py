from __future__ import annotations

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
