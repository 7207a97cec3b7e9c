from __future__ import annotations

from pathlib import Path

import isolation
from running import ServerProcess


def test_a_short_run_measures_both_sides(untrained_models: Path) -> None:
    with ServerProcess(untrained_models) as server:
        found = isolation.measure(
            server.address, encoder=isolation.ENCODER, sampler=isolation.SAMPLER, seconds=0.3, rounds=1
        )
    assert found.idle.calls > 0
    assert found.saturated.calls > 0
    assert found.sampled_images_per_second >= 0
    assert found.ratios == [found.saturated.p99 / found.idle.p99]
