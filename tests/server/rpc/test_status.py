"""How much of an error's text goes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2

from ancestral_server.errors import (
    InvalidArgument,
    NotFound,
    Overloaded,
    QuotaExceeded,
    RoleMissing,
    ServerError,
    Unavailable,
)
from ancestral_server.rpc.status import LONGEST_RETRY_SECONDS, MOST_BYTES, brief, rich, status

# What a client of gRPC takes, of all metadata of an answer.
SOFT_LIMIT = 8 * 1024


@pytest.mark.parametrize("text", ["", "model: is empty", "a" * MOST_BYTES, "naïve 模型 100 %", "\n\x00"])
def test_what_is_short_goes_out_whole(text: str) -> None:
    assert brief(text) == text


@pytest.mark.parametrize("letter", ["a", "é", "模", "😀", "%", "\x00"])
def test_what_is_long_is_cut_to_what_it_takes_on_the_wire(letter: str) -> None:
    cut = brief(letter * 100_000)
    assert cut.startswith(letter * 10)
    assert cut.endswith("... (100000 characters)")
    assert len(quote(cut)) < MOST_BYTES + 100


def test_what_cannot_be_sent_is_replaced() -> None:
    assert brief("caf\udce9") == "caf?"


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("f" * 10**5, "p" * 10**5),
        NotFound("模" * 10**5, "模" * 10**5),
        RoleMissing("r" * 10**5, "m" * 10**5, "f" * 10**5),
        Unavailable("%" * 10**5, "%" * 10**5),
    ],
)
def test_no_error_is_more_than_a_client_takes(error: InvalidArgument | NotFound | RoleMissing | Unavailable) -> None:
    _, message, trailers = status(error, "i" * 128)
    details = dict(trailers)["grpc-status-details-bin"]
    assert len(quote(message)) + len(details) * 4 / 3 < SOFT_LIMIT


@pytest.mark.parametrize("seconds", [0.0, 0.0123, 3600.0, 1e7, 1e300, math.inf])
@pytest.mark.parametrize(
    "made",
    [lambda s: Overloaded("a", "b", s), lambda s: QuotaExceeded("a", "b", "c", s), lambda s: Unavailable("a", "b", s)],
)
def test_a_delay_is_told_however_long_it_is(made: Callable[[float], ServerError], seconds: float) -> None:
    told = min(seconds, LONGEST_RETRY_SECONDS)
    _, _, trailers = status(made(seconds), "id")
    pushback = int(dict(trailers)["grpc-retry-pushback-ms"])
    assert pushback == math.ceil(told * 1000) < 2**31
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rich(made(seconds), "id").details)
    assert retry.retry_delay.ToNanoseconds() == pytest.approx(told * 1e9)
