from __future__ import annotations

import pytest

from ancestral_server.engine.costs import CostModel, CostTuning

TUNING = CostTuning()
LATER = TUNING.fresh_seconds + 1


def test_an_unmeasured_size_costs_what_the_next_smaller_does() -> None:
    costs = CostModel()
    assert costs.seconds(8) == 0
    costs.learn(2, 1.0, 0.0)
    costs.learn(4, 3.0, 0.0)
    assert [costs.seconds(size) for size in (1, 2, 3, 4, 9)] == [0, 1, 1, 3, 3]


def test_a_slow_run_counts_for_its_weight() -> None:
    costs = CostModel()
    costs.learn(1, 1.0, 0.0)
    costs.learn(1, 2.0, 0.0)
    assert costs.seconds(1) == pytest.approx(1 + TUNING.weight)


def test_refusals_of_an_idle_lane_wear_an_estimate_down() -> None:
    costs = CostModel()
    costs.learn(1, 60.0, 0.0)
    for _ in range(100):
        costs.decay(0.0, idle=True)
    assert costs.seconds(1) < 0.01


def test_an_overload_does_not_wear_down_what_its_own_runs_measure() -> None:
    costs = CostModel()
    costs.learn(1, 1.0, 0.0)
    for _ in range(100):
        costs.decay(0.0)
    assert costs.seconds(1) == 1.0
    for _ in range(100):
        # Once for each time that it is not recent any more, however many are refused.
        costs.decay(LATER)
    assert costs.seconds(1) == pytest.approx(1 - TUNING.weight)


def test_one_size_that_nothing_has_measured_lately_is_doubted() -> None:
    costs = CostModel()
    costs.learn(1, 1.0, 0.0)
    costs.learn(2, 2.0, 0.0)
    costs.decay(LATER, 2)
    costs.decay(LATER, 4)
    assert costs.seconds(2) == pytest.approx(2 * (1 - TUNING.weight))
    assert costs.seconds(1) == 1.0


def test_a_copy_learns_apart() -> None:
    costs = CostModel()
    costs.learn(1, 1.0, 0.0)
    other = costs.copy()
    other.learn(1, 2.0, 0.0)
    assert costs.seconds(1) == 1.0 < other.seconds(1)
