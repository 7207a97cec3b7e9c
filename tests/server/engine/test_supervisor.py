from __future__ import annotations

import pytest

from ancestral_server.backoff import LONGEST_SECONDS, SOUND_SECONDS, restart_delay
from ancestral_server.engine.supervisor import Supervisor


def test_restarts_are_further_and_further_apart_but_never_given_up() -> None:
    assert [restart_delay(failures) for failures in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert restart_delay(10**6) == LONGEST_SECONDS


def test_a_lane_is_healthy_as_long_as_a_seat_is_up() -> None:
    supervisor = Supervisor(2)
    told = []
    for change in (lambda: supervisor.failed(0, 0.0), lambda: supervisor.failed(1, 0.0), lambda: supervisor.up(1)):
        change()
        told.append(supervisor.healthy)
    assert told == [True, False, True]
    assert supervisor.pause(1, 0.0) is None
    assert supervisor.pause(0, 0.04) == pytest.approx(0.06)
    assert supervisor.pause(0, 1.0) == 0


def test_failures_in_succession_count_until_a_seat_has_been_sound_for_a_while() -> None:
    supervisor = Supervisor(1)
    assert [supervisor.failed(0, now) for now in (0.0, 1.0, 2.0)] == [1, 2, 3]
    assert supervisor.failed(0, 2.0 + SOUND_SECONDS) == 1
