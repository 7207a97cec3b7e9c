"""The benchmark itself, in short: that it measures samples that were painted."""

from __future__ import annotations

import raster_loop


def test_each_loop_paints_all_samples() -> None:
    found = raster_loop.measure(repeats=1)
    assert list(found) == ["overlapping", "in turn"]
    assert all(set(medians) == {1024, 1} and min(medians.values()) > 0 for medians in found.values())
