"""Quotas: how much of the server a caller may take. Objects without clocks and threads: they are told the time, in
seconds of any one clock, and say yes, or no and how long that will hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# What has not been asked for may be made up for later, so much of it at most: callers come in bursts, and their
# neighbours see no more of one than a second's worth of work.
BURST_SECONDS = 1.0
# When to come again where a call of the caller's own has to end first: nobody knows when that will be, and it is the
# caller who does.
OWN_CALL_SECONDS = 0.5

Rate = Annotated[float | None, Field(gt=0, strict=True, allow_inf_nan=False)]
Count = Annotated[int | None, Field(ge=0, strict=True)]


class Quota(BaseModel):
    """What a caller may take; None: as much as the server has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls_per_second: Rate = None
    images_per_second: Rate = None
    # A run of several callers' images counts for each by its share of them.
    compute_seconds_per_second: Rate = None
    # Calls that stream, and calls of any kind, at a time.
    streams: Count = None
    in_flight: Count = None


@dataclass(frozen=True)
class Over:
    """A no: the part of the quota that it is for, why, and after how many seconds it may be a yes; infinite: never."""

    limit: str
    problem: str
    retry_seconds: float


class Bucket:
    """What may still be taken of something that comes at a rate. It may be overdrawn: who has taken more than there was
    waits until that has come. least: what it holds at least when it is full.
    """

    def __init__(self, rate: float, now: float, least: float = 0.0) -> None:
        self.rate = rate
        self._most = max(least, rate * BURST_SECONDS)
        self._level = self._most
        self._since = now

    def level(self, now: float) -> float:
        self._level = min(self._most, self._level + (now - self._since) * self.rate)
        self._since = now
        return self._level

    def seconds_until(self, wanted: float, now: float) -> float:
        """Seconds until there is so much, of which there is never more than comes in a burst; 0: now."""
        return max(0.0, wanted - self.level(now)) / self.rate

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount


class Meter:
    """What one caller takes, against its quota. How large a call is, is known when it has been read, and what it costs
    when it has been run: both are taken then, and the next call waits for it.
    """

    def __init__(self, quota: Quota, now: float) -> None:
        self.in_flight = 0
        self.streams = 0
        self.limit(quota, now)

    def limit(self, quota: Quota, now: float) -> None:
        """Hold the caller to this quota from now on; calls that go on still count."""
        self.quota = quota
        # At a rate below one a second, too, a whole call fits in.
        self._calls = _bucket(quota.calls_per_second, now, least=1.0)
        self._work = {
            "images_per_second": _bucket(quota.images_per_second, now),
            "compute_seconds_per_second": _bucket(quota.compute_seconds_per_second, now),
        }

    def enter(self, now: float, *, stream: bool) -> Over | None:
        """Let a call in, which `leave` ends; or say why not."""
        quota = self.quota
        if quota.in_flight is not None and self.in_flight >= quota.in_flight:
            return _too_many("in_flight", "calls", self.in_flight, quota.in_flight)
        if stream and quota.streams is not None and self.streams >= quota.streams:
            return _too_many("streams", "streams", self.streams, quota.streams)
        if (over := self.over(now)) is not None:
            return over
        if self._calls is not None:
            if (seconds := self._calls.seconds_until(1, now)) > 0:
                return Over("calls_per_second", f"more calls than {self._calls.rate:g} a second", seconds)
            self._calls.take(1, now)
        self.in_flight += 1
        self.streams += stream
        return None

    def leave(self, *, stream: bool) -> None:
        self.in_flight -= 1
        self.streams -= stream

    def over(self, now: float) -> Over | None:
        """Whether the work that the caller has had done so far is more than it may: more waits until it is not."""
        for limit, bucket in self._work.items():
            if bucket is not None and (seconds := bucket.seconds_until(0, now)) > 0:
                what = limit.removesuffix("_per_second").replace("_", " ")
                return Over(limit, f"more {what} than {bucket.rate:g} a second", seconds)
        return None

    def worked(self, now: float, *, images: int = 0, seconds: float = 0.0) -> None:
        """Images of the caller's were taken in, or have cost so many seconds."""
        for bucket, amount in zip(self._work.values(), (images, seconds), strict=True):
            if bucket is not None:
                bucket.take(amount, now)


def _too_many(limit: str, what: str, there_are: int, most: int) -> Over:
    if not most:
        return Over(limit, f"the quota has none: no {what} are let in", math.inf)
    return Over(limit, f"{there_are} {what} go on, of {most} at a time", OWN_CALL_SECONDS)


def _bucket(rate: float | None, now: float, least: float = 0.0) -> Bucket | None:
    return None if rate is None else Bucket(rate, now, least)
