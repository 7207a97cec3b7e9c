from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ancestral_server.runtime.noise import uniforms, uniforms_of_range

KNOWN = [14630964, 4955408, 7048069, 6801353]


def test_a_stream_depends_on_seed_and_index_alone() -> None:
    together = uniforms_of_range(7, 0, 16, (4, 3, 1))
    assert np.array_equal(together[5], uniforms(7, 5, (4, 3, 1)))
    assert np.array_equal(together[5:], uniforms_of_range(7, 5, 11, (4, 3, 1)))
    assert not np.array_equal(together[0], uniforms(8, 0, (4, 3, 1)))


def test_a_longer_request_begins_with_the_shorter_one() -> None:
    assert np.array_equal(uniforms(1, 2, (50,))[:10], uniforms(1, 2, (10,)))


def test_known_values_so_that_no_upgrade_changes_them_unnoticed() -> None:
    """Recorded from numpy 2.4.6; Philox 4×64 is specified, so any other value breaks the contract of seeds."""
    assert (uniforms(7, 0, (4,)) * 2**24).astype(int).tolist() == KNOWN


def test_values_are_in_the_unit_interval_on_the_grid() -> None:
    values = uniforms(2**63 - 1, 2**63 - 1, (10_000,))
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert np.array_equal(values * 2**24, np.round(values * 2**24))
    assert abs(values.mean() - 0.5) < 0.02


def test_threads_do_not_disturb_each_other() -> None:
    pairs = [(seed, index) for seed in range(40) for index in range(40)]
    alone = [uniforms(*pair, (300,)) for pair in pairs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda pair: uniforms(pair[0], pair[1], (300,)), pairs))
    assert np.array_equal(alone, together)


def test_a_single_row_that_is_drawn_again_is_the_same_and_cannot_be_written_to() -> None:
    for _ in range(2):
        for seed, index, shape in ((7, 5, (4, 3)), (7, 5, (12,)), (7, 6, (4, 3)), (8, 5, (4, 3)), (7, 5, (40, 40))):
            row = uniforms_of_range(seed, index, 1, shape)
            assert np.array_equal(row, uniforms(seed, index, shape)[None])
    with pytest.raises(ValueError, match="read-only"):
        uniforms_of_range(7, 5, 1, (12,))[0, 0] = 1
