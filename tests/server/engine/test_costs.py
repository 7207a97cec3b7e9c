from __future__ import annotations

import pytest

from ancestral_server.engine.costs import FRESH_SECONDS, WEIGHT, Costs


def test_an_unmeasured_size_costs_what_the_next_smaller_does() -> None:
    costs = Costs()
    assert costs.seconds(8) == 0
    costs.learn(2, 1.0)
    costs.learn(4, 3.0)
    assert [costs.seconds(size) for size in (1, 2, 3, 4, 9)] == [0, 1, 1, 3, 3]


def test_a_slow_run_counts_for_its_weight() -> None:
    costs = Costs()
    costs.learn(1, 1.0)
    costs.learn(1, 2.0)
    assert costs.seconds(1) == pytest.approx(1 + WEIGHT)


def test_refusals_wear_an_estimate_down() -> None:
    costs = Costs()
    costs.learn(1, 60.0)
    for _ in range(100):
        costs.relent(idle=True)
    assert costs.seconds(1) < 0.01


def test_an_overload_does_not_wear_down_what_its_own_runs_measure() -> None:
    costs = Costs()
    costs.learn(1, 1.0)
    for _ in range(100):
        costs.relent(idle=False)
    assert costs.seconds(1) == 1.0
    costs._measured[1] -= FRESH_SECONDS
    costs.relent(idle=False)
    assert costs.seconds(1) == pytest.approx(1 - WEIGHT)


def test_one_size_that_nothing_has_measured_lately_is_doubted() -> None:
    costs = Costs()
    costs.learn(1, 1.0)
    costs.learn(2, 2.0)
    costs.doubt(2)
    costs.doubt(4)
    assert costs.seconds(2) == 2.0
    costs._measured[2] -= FRESH_SECONDS
    costs.doubt(2)
    assert costs.seconds(2) == pytest.approx(2 * (1 - WEIGHT))
    assert costs.seconds(1) == 1.0
