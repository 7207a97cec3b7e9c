from __future__ import annotations

import pytest

from ancestral_server.engine.admission import queue_limit
from ancestral_server.engine.batching import Piece, bucket, buckets, cut, enough, fill, halves, parts, share
from simulation import images


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (64, (1, 2, 4, 8, 16, 32, 64)), (6, (1, 2, 4, 6))])
def test_buckets_are_powers_of_two_and_the_limit(most: int, sizes: tuple[int, ...]) -> None:
    assert buckets(most) == sizes


def test_bucket_is_the_smallest_that_holds_the_rows() -> None:
    assert [bucket(rows, (1, 2, 4)) for rows in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 4]


def test_a_batch_is_large_enough_where_more_rows_would_hardly_make_one_cheaper() -> None:
    assert enough((1, 2, 4, 8), lambda rows: 0.01 * rows) == 1
    assert enough((1, 2, 4, 8), lambda rows: 0.01) == 8
    # Before anything was measured.
    assert enough((1, 2, 4, 8), lambda rows: 0.0) == 8


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
    assert fill(34, 64, sizes, lambda _: 0.0) == 34


def test_what_is_queued_is_shared_by_all_seats_unless_that_makes_it_dear() -> None:
    assert share(64, 4, 1) == 16
    assert share(10, 4, 1) == 3
    assert share(10, 4, 8) == 8


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


def test_a_batch_is_cut_within_a_request_and_halved_between_two() -> None:
    one, two, three = images(1, 2, 3), images(4), images(5, 6)
    pieces = [Piece(one, 0, 3), Piece(two, 0, 1), Piece(three, 0, 2)]
    first, rest = cut(pieces, 2)
    assert [(piece.job, piece.start, piece.stop) for piece in first] == [(one, 0, 2)]
    assert [(piece.job, piece.start, piece.stop) for piece in rest] == [(one, 2, 3), (two, 0, 1), (three, 0, 2)]
    assert [[piece.job for piece in half] for half in halves(pieces)] == [[one], [two, three]]
    assert halves(pieces[:1]) == []


def test_a_queue_may_hold_a_batch_the_floor_or_as_much_as_the_newcomer() -> None:
    assert queue_limit(floor=0.05, batch=0.01, own=0.001) == 0.05
    assert queue_limit(floor=0.05, batch=0.3, own=0.001) == 0.3
    assert queue_limit(floor=0.05, batch=0.3, own=5.0) == 10.0
