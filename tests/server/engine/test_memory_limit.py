from __future__ import annotations

from ancestral_server.engine.memory_limit import GROW_SECONDS, BatchSizeLimit


def test_it_halves_and_grows_back_step_by_step() -> None:
    limit = BatchSizeLimit((1, 2, 4, 8))
    assert limit.most(0.0) == 8
    assert limit.shrink(8, 0.0)
    assert limit.shrink(4, 0.0)
    assert limit.most(GROW_SECONDS - 1) == 2
    assert limit.most(GROW_SECONDS) == 4
    assert limit.most(2 * GROW_SECONDS - 1) == 4
    assert limit.most(2 * GROW_SECONDS) == 8
    assert limit.most(10**9) == 8


def test_a_failure_on_the_way_back_starts_the_wait_anew() -> None:
    limit = BatchSizeLimit((1, 2, 4))
    assert limit.shrink(4, 0.0)
    assert limit.most(GROW_SECONDS) == 4
    assert limit.shrink(4, GROW_SECONDS)
    assert limit.most(GROW_SECONDS + 1) == 2


def test_the_smallest_size_cannot_be_halved() -> None:
    limit = BatchSizeLimit((1, 2))
    assert not limit.shrink(1, 0.0)
    assert limit.most(0.0) == 2
