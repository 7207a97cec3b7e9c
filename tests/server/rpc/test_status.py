"""How much of an error's text goes out."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ancestral_server.errors import InvalidArgument, NotFound, RoleMissing, Unavailable
from ancestral_server.rpc.status import MOST_BYTES, brief, status

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
