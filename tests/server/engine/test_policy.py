from __future__ import annotations

import pytest

from ancestral_server.engine.policy import (
    PAUSE_SHARE,
    SHORTEST_PAUSE_SHARE,
    batch_wait,
    bucket,
    buckets,
    company,
    enough,
    fill,
    parts,
    queue_limit,
    restart_delay,
)

LONGEST = 0.005
PAUSE_SECONDS = PAUSE_SHARE * LONGEST


def wait(**changes: float) -> float:
    settings = {
        "queued": 3,
        "coming": 0,
        "crowd": 10,
        "waited": 0.0,
        "since_arrival": 0.0,
        "longest": LONGEST,
        "run": 1.0,
    }
    return batch_wait(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (64, (1, 2, 4, 8, 16, 32, 64)), (6, (1, 2, 4, 6))])
def test_buckets_are_powers_of_two_and_the_limit(most: int, sizes: tuple[int, ...]) -> None:
    assert buckets(most) == sizes


def test_bucket_is_the_smallest_that_holds_the_rows() -> None:
    assert [bucket(rows, (1, 2, 4)) for rows in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 4]


def test_a_lone_caller_never_waits() -> None:
    assert wait(queued=1, crowd=1) == 0


def test_a_lone_call_waits_for_one_that_is_being_read() -> None:
    assert wait(queued=1, crowd=1, coming=1) > 0
    assert wait(queued=10, coming=1) > 0


def test_a_pause_in_the_arrivals_ends_the_wait_for_the_missing() -> None:
    assert wait(since_arrival=PAUSE_SECONDS) == 0
    assert wait(since_arrival=PAUSE_SECONDS / 4) == pytest.approx(PAUSE_SECONDS * 3 / 4)


def test_nobody_waits_once_the_crowd_is_there_save_a_few() -> None:
    assert wait(queued=8) > 0
    assert wait(queued=9) == 0


def test_a_pause_that_costs_more_than_a_run_is_too_long() -> None:
    assert wait(run=0.001) == pytest.approx(0.001)
    assert wait(run=0.0) == pytest.approx(SHORTEST_PAUSE_SHARE * LONGEST)
    assert wait(run=1.0) == pytest.approx(PAUSE_SECONDS)


def test_the_wait_is_bounded() -> None:
    assert wait(waited=LONGEST) == 0
    assert wait(waited=LONGEST - 0.0001) == pytest.approx(0.0001)


def test_a_batch_waits_for_half_a_crowd_where_the_other_half_can_come_back_meanwhile() -> None:
    # Dear by the row: two halves keep the lane busy. Dear by the run: one large batch.
    assert company(64, lambda rows: 0.002 + 0.0002 * rows) == 32
    assert company(64, lambda rows: 0.05) == 64
    assert company(1, lambda rows: 0.001) == 1


def test_a_batch_is_large_enough_where_more_rows_would_hardly_make_one_cheaper() -> None:
    assert enough((1, 2, 4, 8), lambda rows: 0.01 * rows) == 1
    assert enough((1, 2, 4, 8), lambda rows: 0.01) == 8


def test_a_run_is_padded_only_where_that_gets_more_done() -> None:
    sizes = buckets(64)

    def linear(size: int) -> float:
        return 0.001 * size

    def flat(size: int) -> float:
        return 0.01 + 0.00001 * size

    # Where cost grows with size, 34 rows would cost 64: two wait for the next run. 60 are nearly as many.
    assert fill(34, 64, sizes, linear) == 32
    assert fill(60, 64, sizes, linear) == 60
    assert fill(34, 64, sizes, flat) == 34
    # A full size, one row, more than a run may hold.
    assert fill(32, 64, sizes, linear) == 32
    assert fill(1, 64, sizes, linear) == 1
    assert fill(100, 64, sizes, linear) == 64
    assert fill(100, 48, sizes, linear) == 32
    # Before anything was measured.
    assert fill(34, 64, sizes, lambda _: 0.0) in (32, 34)


@pytest.mark.parametrize(
    ("rows", "most", "full", "runs"),
    [
        (5, 8, False, [5]),
        (5, 4, False, [4, 1]),
        (7, 2, False, [2, 2, 2, 1]),
        (1, 8, True, [8]),
        (5, 4, True, [4, 4]),
        # Never more slots than there are.
        (9, 4, True, [4, 4, 3]),
    ],
)
def test_parts_hold_all_rows(rows: int, most: int, full: bool, runs: list[int]) -> None:
    assert parts(rows, most, 11, full=full) == runs


def test_a_queue_may_hold_a_batch_the_floor_or_as_much_as_the_newcomer() -> None:
    assert queue_limit(floor=0.05, batch=0.01, own=0.001) == 0.05
    assert queue_limit(floor=0.05, batch=0.3, own=0.001) == 0.3
    assert queue_limit(floor=0.05, batch=0.3, own=5.0) == 10.0


def test_restarts_are_further_and_further_apart_but_never_given_up() -> None:
    assert [restart_delay(failures) for failures in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert restart_delay(10**6) == 30.0
