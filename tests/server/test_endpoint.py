"""The metrics' port by itself: what it answers, to how many, and that no caller keeps it from the others."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator

import pytest

from ancestral_server import endpoint
from ancestral_server.endpoint import Answer, Endpoint, Request, listen
from waiting import PATIENCE

TEXT = (
    b"# HELP a_total One.\n# TYPE a_total counter\na_total 1\n# HELP b Two.\n# TYPE b gauge\n" + b'b{c="x y"} 2\nbb 3\n'
)
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def text(open_metrics: bool) -> bytes:
    return TEXT + (b"# EOF\n" if open_metrics else b"")


@pytest.fixture
def running() -> Iterator[Endpoint]:
    served = Endpoint(text, listen("127.0.0.1", 0))
    yield served
    served.close()


def connect(served: Endpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)


def ask(served: Endpoint, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    with connect(served) as connection, connection.makefile("rb") as said:
        connection.sendall(request)
        head, _, body = said.read().partition(b"\r\n\r\n")
    return head, body


def test_a_scrape_is_answered_in_the_format_and_the_coding_that_is_asked_for(running: Endpoint) -> None:
    head, body = ask(running, GET)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert body == TEXT
    assert ask(running, b"GET /any/path HTTP/1.0\n\n")[1] == TEXT
    # As Prometheus 2.53 asks.
    wanted = b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;q=0.7,text/plain;q=0.2,*/*;q=0.1"
    head, body = ask(running, b"GET / HTTP/1.1\r\nAccept: " + wanted + b"\r\naccept-encoding: gzip\r\n\r\n")
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in head
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == TEXT + b"# EOF\n"


def test_some_series_can_be_asked_for_by_name(running: Endpoint) -> None:
    _, body = ask(running, b"GET /metrics?name[]=b&name[]=nothing HTTP/1.0\r\n\r\n")
    assert body == b'# HELP b Two.\n# TYPE b gauge\nb{c="x y"} 2\n'


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"HEAD / HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", b"200 OK\r\nAllow: GET, OPTIONS"),
        (b"GET /favicon.ico HTTP/1.1\r\n\r\n", b"200 OK\r\nContent-Length: 0"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET  HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET http://[::1 HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET /?" + b"&".join([b"name[]=x"] * 101) + b" HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"\xff\x00" * 40_000, b"400 Bad Request"),
    ],
)
def test_what_is_no_scrape_is_answered_too(running: Endpoint, request_: bytes, said: bytes) -> None:
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # of what is longer than is read
        assert ask(running, request_)[0].startswith(b"HTTP/1.1 " + said)
    assert ask(running, GET)[1] == TEXT


def test_a_coding_that_is_refused_is_not_used() -> None:
    for header, compressed in (("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("br", False)):
        request = Request.read(f"GET / HTTP/1.1\r\nAccept-Encoding: {header}\r\n".encode())
        assert isinstance(request, Request)
        assert request.compressed is compressed, header


def test_all_who_wait_get_the_same_scrape_which_began_after_they_asked() -> None:
    began: list[int] = []

    def scrape(open_metrics: bool) -> bytes:
        began.append(len(asked))
        return b"%d" % len(began)

    asked: list[int] = []
    served = Endpoint(scrape, listen("127.0.0.1", 0))

    async def crowd() -> list[Answer]:
        async def one() -> Answer:
            asked.append(1)
            return await served._answer(GET)

        return await asyncio.gather(*(one() for _ in range(300)))

    try:
        for number in (1, 2):
            answers = asyncio.run_coroutine_threadsafe(crowd(), served._loop).result(PATIENCE)
            assert {answer.body for answer in answers} == {b"%d" % number}
    finally:
        served.close()
    assert began == [300, 600]


def test_a_scrape_is_followed_by_nine_times_as_long_without_one() -> None:
    assert endpoint.pause(0.01) == pytest.approx(0.09)
    assert endpoint.pause(5.0) == 1.0


def test_a_scrape_that_fails_is_said_and_the_next_is_answered() -> None:
    failures = [ValueError("broken")]

    def scrape(open_metrics: bool) -> bytes:
        if failures:
            raise failures.pop()
        return TEXT

    served = Endpoint(scrape, listen("127.0.0.1", 0))
    try:
        head, body = ask(served, GET)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert body == b"the scrape failed: broken\n"
        assert ask(served, GET)[1] == TEXT
    finally:
        served.close()


def test_who_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch, running: Endpoint) -> None:
    monkeypatch.setattr(endpoint, "LONGEST_SECONDS", 0.2)
    for said in (b"", b"GET /metrics HTTP/1.1\r\n"):
        with connect(running) as connection:
            connection.sendall(said)
            assert connection.recv(1) == b""
    # One byte after another is no way to stay.
    with connect(running) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(0.05)
        heard = b"x"
        while heard:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                heard = connection.recv(1)


def test_the_silent_the_slow_and_the_deaf_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "STUCK_SECONDS", 0.05)
    large = b"x" * 20_000_000
    served = Endpoint(lambda open_metrics: large, listen("127.0.0.1", 0))
    threads = set(threading.enumerate())
    with contextlib.ExitStack() as open_:
        for number in range(2 * endpoint.MOST_CONNECTIONS):
            stuck = open_.enter_context(connect(served))
            # Silent; half a request; a whole one whose answer nobody reads.
            stuck.sendall((b"", GET[:20], GET)[number % 3])
        assert ask(served, GET)[1] == large
        # No more of them; threads of tests before this one may end meanwhile.
        assert threads.issuperset(threading.enumerate())
        assert len(served._connections) <= endpoint.MOST_CONNECTIONS
    served.close()


def test_a_port_that_is_taken_is_told(running: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", running.port)


def test_closing_waits_for_nobody() -> None:
    served = Endpoint(text, listen("127.0.0.1", 0))
    with connect(served) as connection:
        connection.sendall(GET[:10])
        served.close()
        with contextlib.suppress(ConnectionResetError):  # what was sent was not read
            assert connection.recv(1) == b""
