"""The rows of a job: noise and repeated arrays, however a run cuts them."""

from __future__ import annotations

import numpy as np
import pytest

from ancestral.bundle.noise import uniforms
from ancestral_server.engine.job import NoiseStreams, Repeated


@pytest.mark.parametrize("draws", [1, 3, 7])
@pytest.mark.parametrize("indices", [None, [4, 9, 2, 4]])
def test_any_cut_of_the_rows_is_the_same_noise(draws: int, indices: list[int] | None) -> None:
    streams = NoiseStreams(7, 5, (2, 3), indices, draws)
    rows = 4 * draws
    whole = streams.rows(0, rows)
    for image in range(4):
        index = 5 + image if indices is None else indices[image]
        # One stream for each image: its draws are what comes after each other.
        mine = whole[image * draws : (image + 1) * draws]
        assert np.array_equal(mine, uniforms(7, index, (draws, 2, 3)))
    for start in range(rows):
        for stop in range(start + 1, rows + 1):
            assert np.array_equal(streams.rows(start, stop), whole[start:stop])


def test_rows_are_repeated_one_after_another() -> None:
    array = np.arange(6).reshape(3, 2)
    rows = Repeated(array, 4)
    assert np.array_equal(rows.rows(0, 12), np.repeat(array, 4, axis=0))
    assert rows.rows(3, 9)[:, 0].tolist() == [0, 2, 2, 2, 2, 4]
