"""Quotas, by numbers: the clock is the test's."""

from __future__ import annotations

import math

import pytest

from ancestral_server.access.quota import OWN_CALL_SECONDS, Bucket, Meter, Over, Quota


def limits(over: Over | None) -> str:
    return "" if over is None else over.limit


def test_a_bucket_holds_a_burst_and_fills_at_its_rate() -> None:
    bucket = Bucket(4, now=10)
    assert bucket.level(10) == 4
    bucket.take(4, 10)
    assert bucket.seconds_until(1, 10) == 0.25
    assert bucket.level(10.5) == 2
    # It never holds more, however long nothing was taken; what was overdrawn has to come in first.
    assert bucket.level(100) == 4
    bucket.take(12, 100)
    assert bucket.seconds_until(0, 100) == 2
    # A rate below one a second lets one in, too.
    slow = Bucket(0.01, now=0, least=1)
    slow.take(1, 0)
    assert slow.seconds_until(1, 0) == pytest.approx(100)


def test_calls_are_let_in_at_their_rate_and_the_refused_ones_cost_nothing() -> None:
    meter = Meter(Quota(calls_per_second=2), now=0)
    assert [limits(meter.enter(0, stream=False)) for _ in range(2)] == ["", ""]
    for _ in range(100):
        over = meter.enter(0.1, stream=False)
        assert over is not None
        assert over.limit == "calls_per_second"
        assert over.retry_seconds == pytest.approx(0.4)
    # Exactly after the delay that it was told.
    assert meter.enter(0.5, stream=False) is None
    # Over a minute of asking all the time: a burst, and then the rate.
    let_in = sum(meter.enter(1 + tick / 100, stream=False) is None for tick in range(6000))
    assert let_in == pytest.approx(2 * 60, abs=2)


@pytest.mark.parametrize(
    ("quota", "work", "limit"),
    [
        (Quota(images_per_second=10), {"images": 110}, "images_per_second"),
        (Quota(compute_seconds_per_second=0.1), {"seconds": 1.9}, "compute_seconds_per_second"),
    ],
)
def test_work_that_was_done_is_paid_for_before_the_next(quota: Quota, work: dict[str, int], limit: str) -> None:
    meter = Meter(quota, now=0)
    # How large it is nobody knows when it comes.
    assert meter.enter(0, stream=False) is None
    meter.worked(0, **work)
    over = meter.enter(0, stream=False)
    assert over is not None
    assert over.limit == limit
    assert "a second" in over.problem
    late = over.retry_seconds
    assert late == pytest.approx(10 if limit == "images_per_second" else 18)
    assert limits(meter.over(late / 2)) == limit
    assert meter.enter(late + 1e-6, stream=False) is None


def test_what_goes_on_is_counted_until_it_ends() -> None:
    meter = Meter(Quota(streams=1, in_flight=2), now=0)
    assert meter.enter(0, stream=True) is None
    assert meter.enter(0, stream=True) == Over("streams", "1 streams go on, of 1 at a time", OWN_CALL_SECONDS)
    assert meter.enter(0, stream=False) is None
    assert limits(meter.enter(0, stream=False)) == "in_flight"
    meter.leave(stream=True)
    assert meter.enter(0, stream=True) is None
    assert (meter.in_flight, meter.streams) == (2, 1)


def test_what_the_quota_has_none_of_is_never_let_in() -> None:
    meter = Meter(Quota(streams=0), now=0)
    assert meter.enter(0, stream=False) is None
    assert meter.enter(0, stream=True) == Over("streams", "the quota has none: no streams are let in", math.inf)
    meter.limit(Quota(in_flight=0), 0)
    meter.leave(stream=False)
    assert meter.enter(0, stream=False) == Over("in_flight", "the quota has none: no calls are let in", math.inf)


def test_nothing_is_counted_of_what_is_refused() -> None:
    meter = Meter(Quota(calls_per_second=1, images_per_second=1, in_flight=1), now=0)
    meter.worked(0, images=2)
    assert limits(meter.enter(0, stream=True)) == "images_per_second"
    assert (meter.in_flight, meter.streams) == (0, 0)
    assert meter.enter(1.1, stream=False) is None


def test_a_new_quota_holds_at_once_and_for_the_calls_that_go_on() -> None:
    meter = Meter(Quota(), now=0)
    assert [limits(meter.enter(0, stream=False)) for _ in range(5)] == [""] * 5
    meter.limit(Quota(in_flight=5), 1)
    assert limits(meter.enter(1, stream=False)) == "in_flight"
    meter.leave(stream=False)
    assert meter.enter(1, stream=False) is None
