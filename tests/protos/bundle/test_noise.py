"""The noise stream: as bundle.proto defines it, by a second implementation that was written from its comment."""

from __future__ import annotations

import math
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ancestral.bundle.noise import normals, uniforms, uniforms_of, uniforms_of_range

# Of stream (7, 3): the words stand in bundle.proto too.
WORDS = [8893702929424106994, 13357943582879616415, 927023405073346982, 5831511509215899605]
UNIFORMS = [8088775, 12148978, 843122, 5303728]  # of 2^24
NORMALS = [1.090480216073925, -0.6477931846064473]  # of the words 0 and 2, and 1 and 3
MASK = 2**64 - 1


def philox(seed: int, index: int, block: int) -> list[int]:
    """A block of the stream: Philox 4x64-10 in plain integers."""
    counter, key = [block + 1, 0, 0, 0], [seed, index]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [second >> 64 ^ counter[1] ^ key[0], second & MASK, first >> 64 ^ counter[3] ^ key[1], first & MASK]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


def grid(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[int]:
    """Uniforms in units of 2^-24."""
    whole = values * 2**24
    assert (whole == np.round(whole)).all()
    return [int(value) for value in whole.ravel()]


def test_the_numbers_of_the_contract() -> None:
    assert philox(7, 3, 0) == WORDS
    assert [word >> 40 for word in WORDS] == UNIFORMS
    assert grid(uniforms(7, 3, (2, 2))) == UNIFORMS
    assert normals(uniforms(7, 3, (1, 2, 2)))[0].tolist() == pytest.approx(NORMALS, rel=1e-15)


def test_seeds_of_version_0_2_0_draw_what_they_drew() -> None:
    assert grid(uniforms(7, 0, (4,))) == [14630964, 4955408, 7048069, 6801353]


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 0), (1, 2**63 - 1), (2**63 - 1, 5), (2**40 + 3, 2**33)])
def test_a_stream_is_what_its_definition_says(seed: int, index: int) -> None:
    defined = [word >> 40 for block in range(4) for word in philox(seed, index, block)]
    assert grid(uniforms(seed, index, (16,))) == defined
    for start in range(9):
        assert grid(uniforms(seed, index, (2, 3), start)) == defined[start : start + 6]


def test_many_streams_are_those_that_their_definition_says() -> None:
    # More than are converted together.
    streams = [(seed * 2**40 + 3, 2**63 - 1 - index) for seed in range(5) for index in range(10)]
    drawn = uniforms_of(streams, (2, 5, 1))
    assert drawn.shape == (50, 2, 5, 1)
    for (seed, index), values in zip(streams, drawn, strict=True):
        assert grid(values) == [word >> 40 for block in range(3) for word in philox(seed, index, block)][:10]
    assert uniforms_of([], (4, 3, 1)).shape == (0, 4, 3, 1)


def test_normals_are_what_their_definition_says() -> None:
    drawn = uniforms(7, 1, (1, 2, 5))
    assert struct.pack("<10f", *drawn.ravel()) == uniforms(7, 1, (10,)).tobytes()
    for u, v, normal in zip(*drawn[0].tolist(), normals(drawn)[0].tolist(), strict=True):
        assert normal == pytest.approx(math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v), rel=1e-14)
    edges = np.array([[[0.0, 1 - 2**-24], [0.0, 0.0]]], np.float32)
    assert normals(edges)[0].tolist() == [0.0, pytest.approx(math.sqrt(48 * math.log(2)))]


def test_a_stream_depends_on_seed_and_index_alone() -> None:
    together = uniforms_of_range(7, 0, 16, (4, 3, 1))
    assert np.array_equal(together[5], uniforms(7, 5, (4, 3, 1)))
    assert np.array_equal(together[5:], uniforms_of_range(7, 5, 11, (4, 3, 1)))
    assert not np.array_equal(together[0], uniforms(8, 0, (4, 3, 1)))


def test_values_are_in_the_unit_interval() -> None:
    values = uniforms(2**63 - 1, 2**63 - 1, (10_000,))
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02


def test_threads_do_not_disturb_each_other() -> None:
    pairs = [(seed, index) for seed in range(40) for index in range(40)]
    alone = [uniforms(*pair, (300,)) for pair in pairs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda pair: uniforms(pair[0], pair[1], (300,)), pairs))
    assert np.array_equal(alone, together)
