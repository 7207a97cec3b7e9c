"""How long a batch waits for company, by numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ancestral_server.engine.batching import buckets
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning, Immediate, View

TUNING = AdaptiveTuning(longest=0.005)
PAUSE = TUNING.longest_pause_share * TUNING.longest
SIZES = buckets(64)


def flat(size: int) -> float:
    """A run that costs the same whatever it holds: company is worth waiting for."""
    return 1.0


VIEW = View(queued=3, rows=3, now=10.0, since=10.0, last_arrival=10.0, sizes=SIZES, seconds=flat)


def seasoned(crowd: int, coming: int = 0) -> Adaptive:
    """A policy that has seen so many callers together, and does not probe now."""
    policy = Adaptive(lambda now: coming, TUNING)
    while policy.probes:
        policy.ran(crowd, SIZES, flat)
    return policy


def seconds(policy: Adaptive, **changes: Any) -> float:
    wait = policy.wait(replace(VIEW, **changes))
    assert wait is None or wait.seconds is not None
    return 0.0 if wait is None else wait.seconds or 0.0


def batches_until_a_probe(policy: Adaptive, together: int) -> int:
    """Run batches of so many requests until the next one is a probe."""
    for batches in range(2 * TUNING.probe_seldom):
        if policy.probes:
            return batches
        policy.ran(together, SIZES, flat)
    raise AssertionError("no probe")


def test_a_lone_caller_never_waits() -> None:
    assert seconds(seasoned(1), queued=1, rows=1) == 0


def test_a_lone_call_waits_for_one_that_is_being_read() -> None:
    assert seconds(seasoned(1, coming=1), queued=1, rows=1) > 0
    assert seconds(seasoned(10, coming=1), queued=10, rows=10) > 0


def test_a_pause_in_the_arrivals_ends_the_wait_for_the_missing() -> None:
    policy = seasoned(10)
    assert seconds(policy, last_arrival=10.0 - PAUSE) == 0
    assert seconds(policy, last_arrival=10.0 - PAUSE / 4) == pytest.approx(PAUSE * 3 / 4)


def test_nobody_waits_once_the_crowd_is_there_save_a_few() -> None:
    policy = seasoned(10)
    assert seconds(policy, queued=8, rows=8) > 0
    assert seconds(policy, queued=9, rows=9) == 0


def test_the_wait_tells_how_many_complete_the_crowd() -> None:
    wait = seasoned(10).wait(VIEW)
    assert wait is not None
    assert wait.wake_at == 9


def test_a_pause_that_costs_more_than_a_run_is_too_long() -> None:
    policy = seasoned(10)
    assert seconds(policy, seconds=lambda size: 0.001) == pytest.approx(0.001)
    assert seconds(policy, seconds=lambda size: 0.0) == pytest.approx(TUNING.shortest_pause_share * TUNING.longest)
    assert seconds(policy) == pytest.approx(PAUSE)


def test_the_wait_is_bounded() -> None:
    policy = seasoned(10)
    assert seconds(policy, since=10.0 - TUNING.longest) == 0
    assert seconds(policy, since=10.0 - TUNING.longest + 0.0001) == pytest.approx(0.0001)


def test_nobody_waits_for_more_rows_than_make_each_cheaper() -> None:
    policy = Adaptive(lambda now: 0, TUNING)
    policy.ran(20, SIZES, lambda size: 0.01 * size)
    while not policy.probes:
        policy.ran(20, SIZES, lambda size: 0.01 * size)
    # One row is as cheap as any, so not even a probe waits.
    assert policy.wait(VIEW) is None
    assert seconds(seasoned(100), queued=64, rows=64) == 0


def test_a_crowd_is_remembered_for_some_batches_and_then_forgotten() -> None:
    policy = Adaptive(lambda now: 0, TUNING)
    policy.ran(9, SIZES, flat)
    for _ in range(TUNING.memory - 1):
        policy.ran(2, SIZES, flat)
    assert policy.crowd == 9
    policy.ran(2, SIZES, flat)
    assert policy.crowd == 2


def test_the_first_batch_and_every_so_many_wait_for_whoever_comes() -> None:
    policy = Adaptive(lambda now: 0, TUNING)
    assert policy.probes
    assert seconds(policy, queued=1, rows=1) == pytest.approx(PAUSE)
    policy.ran(1, SIZES, flat)
    assert batches_until_a_probe(policy, 1) == 2 * TUNING.probe_every - 1


def test_probes_that_find_nobody_become_rare_and_one_that_does_makes_them_frequent() -> None:
    policy = Adaptive(lambda now: 0, TUNING)
    policy.ran(1, SIZES, flat)
    pauses = []
    for _ in range(6):
        pauses.append(batches_until_a_probe(policy, 1))
        policy.ran(1, SIZES, flat)
    assert pauses == sorted(pauses)
    assert pauses[-1] == TUNING.probe_seldom - 1
    batches_until_a_probe(policy, 1)
    policy.ran(64, SIZES, flat)
    assert policy.crowd == 64
    assert batches_until_a_probe(policy, 64) == TUNING.probe_every - 1


def test_immediate_takes_what_is_there() -> None:
    policy = Immediate()
    policy.ran(64, SIZES, flat)
    assert policy.wait(replace(VIEW, queued=1, rows=1, last_arrival=math.inf)) is None
