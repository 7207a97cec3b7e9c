from __future__ import annotations

import math

from ancestral_server.engine.crowd import MEMORY, PROBE_EVERY, PROBE_SELDOM, Crowd


def batches_until_a_probe(crowd: Crowd, together: int) -> int:
    """Run batches of so many requests until the next one is a probe."""
    for batches in range(2 * PROBE_SELDOM):
        if crowd.expected == math.inf:
            return batches
        crowd.seen(together)
    raise AssertionError("no probe")


def settled() -> Crowd:
    """After the first batch, which is a probe, has found one caller."""
    crowd = Crowd()
    assert crowd.expected == math.inf
    crowd.seen(1)
    return crowd


def test_a_lone_caller_is_expected_alone() -> None:
    assert settled().expected == 1


def test_a_crowd_is_remembered_for_some_batches_and_then_forgotten() -> None:
    crowd = Crowd()
    crowd.seen(9)
    assert crowd.known == 9
    for _ in range(MEMORY - 1):
        crowd.seen(2)
    assert crowd.known == 9
    crowd.seen(2)
    assert crowd.known == 2


def test_every_so_often_a_batch_waits_for_whoever_comes() -> None:
    assert batches_until_a_probe(settled(), 1) == 2 * PROBE_EVERY - 1


def test_probes_that_find_nobody_become_rare_and_one_that_does_makes_them_frequent() -> None:
    crowd = settled()
    pauses = []
    for _ in range(6):
        pauses.append(batches_until_a_probe(crowd, 1))
        crowd.seen(1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == PROBE_SELDOM - 1
    batches_until_a_probe(crowd, 1)
    crowd.seen(64)
    assert crowd.known == 64
    assert batches_until_a_probe(crowd, 64) == PROBE_EVERY - 1
