"""The metrics' port: HTTP for whoever scrapes, on a thread of its own, so that no crowd and no sluggard costs calls.

All who wait for a scrape get the same one, begun after they asked; the next begins when the last is ten times as old
as it took. So scrapes never cost more than a tenth of a core, and nobody is told what is no longer so. The connections
are bounded, in number and in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import structlog

from ancestral_server.addresses import bound
from ancestral_server.errors import PermissionDenied, Unauthenticated

log = structlog.get_logger()

# Connections at a time; those beyond wait in the kernel's queue.
MOST_CONNECTIONS = 64
# From the connection to the last byte of the answer: Prometheus itself gives up after 10 s, unless told otherwise.
LONGEST_SECONDS = 10.0
# Where all places are taken and none has become free for so long, those who have had theirs for longer give it up.
STUCK_SECONDS = 1.0
# The most bytes of a request before its body: Prometheus sends some 300.
MOST_HEAD_BYTES = 16 * 1024
# The share of the time that may go into scrapes, and how long one may make the next wait.
SHARE = 0.1
LONGEST_PAUSE_SECONDS = 1.0
# After an accept that failed, as it does while the process has no file descriptor left.
RETRY_SECONDS = 0.2

# Alternative names of a certificate that gRPC tells of, as Python calls them; of a directory's name it does not.
_ALTERNATIVES = ("DNS", "email", "URI", "IP Address")

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}


@dataclass(frozen=True)
class Answer:
    """Status, further headers, body."""

    status: int
    body: bytes = b""
    headers: tuple[str, ...] = ()

    def content(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}", *self.headers]
        lines += [f"Content-Length: {len(self.body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True)
class Request:
    """What a request asks for: one of the two formats, compressed or not, of all series or of those named; and by what
    header it says who asks.
    """

    open_metrics: bool = False
    compressed: bool = False
    names: frozenset[str] = frozenset()
    authorization: str | None = None

    @staticmethod
    def read(head: bytes) -> Request | Answer:
        """The request of a head, or the answer that needs no scrape."""
        first, *lines = head.decode("latin-1").splitlines()
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(400, b"not HTTP: ask for GET /metrics\n")
        method, target, _ = words
        allowed = ("Allow: GET, OPTIONS",)
        if method == "OPTIONS":
            return Answer(200, headers=allowed)
        if method != "GET":
            return Answer(405, b"only GET and OPTIONS are answered: ask for GET /metrics\n", allowed)
        try:
            path = urlsplit(target)
            names = parse_qs(path.query, max_num_fields=100).get("name[]", [])
        except ValueError as error:
            return Answer(400, f"the target is no URL: {error}\n".encode())
        if path.path == "/favicon.ico":
            return Answer(200)
        headers = {name.strip().lower(): value for name, _, value in (line.partition(":") for line in lines)}
        return Request(
            "application/openmetrics-text" in headers.get("accept", ""),
            any(
                coding.split(";")[0].strip().lower() == "gzip" and coding.replace(" ", "").partition(";q=")[2] != "0"
                for coding in headers.get("accept-encoding", "").split(",")
            ),
            frozenset(names),
            headers["authorization"].strip() if "authorization" in headers else None,
        )

    def answer(self, text: bytes) -> Answer:
        """The answer of a scrape in the format that is asked for."""
        body = _restricted(text, self.names) if self.names else text
        headers = [f"Content-Type: {OPEN_METRICS if self.open_metrics else TEXT}"]
        if self.compressed:
            # Beyond the first level a scrape gets hardly smaller, and takes several times as long.
            body = gzip.compress(body, compresslevel=1)
            headers.append("Content-Encoding: gzip")
        return Answer(200, body, tuple(headers))


def _whole(head: bytes) -> bool:
    """Whether an empty line has come; of a caller who types, without carriage returns."""
    return b"\r\n\r\n" in head or b"\n\n" in head


def _restricted(text: bytes, names: frozenset[str]) -> bytes:
    """The samples of these names, with what is told of their families."""
    kept: list[bytes] = []
    about: list[bytes] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(b"# EOF"):
            kept.append(line)
        elif line.startswith(b"#"):
            about = [*about, line] if line.startswith(b"# TYPE") else [line]
        elif line.replace(b"{", b" ").split(b" ")[0].decode() in names:
            kept += [*about, line]
            about = []
    return b"".join(kept)


def _names(certificate: Mapping[str, Any] | None) -> list[str]:
    """Of the certificate that somebody brings: its alternative names, or else its common one, as gRPC has them: whoever
    is known at one port is at the other.
    """
    found = certificate or {}
    if "subjectAltName" not in found:
        return [name for part in found.get("subject", ()) for kind, name in part if kind == "commonName"]
    return [
        # Python writes all eight groups of an IPv6 address.
        str(ip_address(name)) if kind == "IP Address" else name
        for kind, name in found["subjectAltName"]
        if kind in _ALTERNATIVES
    ]


def pause(seconds: float) -> float:
    """Seconds after a scrape that took so many until the next may begin."""
    return min(LONGEST_PAUSE_SECONDS, seconds * (1 / SHARE - 1))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. OSError if the port is taken."""
    listener = bound(host, port)
    listener.listen(128)
    listener.setblocking(False)
    return listener


# The TLS of connections that come now, None for plain text; and who may scrape: raises Unauthenticated or
# PermissionDenied, by the header `authorization` and the names of the certificate that somebody brings.
Tls: TypeAlias = Callable[[], ssl.SSLContext | None]
Gate: TypeAlias = Callable[[str | None, Sequence[str]], None]


def no_tls() -> None:
    """Plain text."""


def anybody(authorization: str | None, names: Sequence[str]) -> None:
    """Lets everybody scrape."""


class Endpoint:
    """Answers GET, on any path, with what `scrape(open_metrics)` gives; from now on, until it is closed."""

    def __init__(
        self, scrape: Callable[[bool], bytes], listener: socket.socket, tls: Tls = no_tls, gate: Gate = anybody
    ) -> None:
        self._scrape = scrape
        self._listener = listener
        self._tls = tls
        self._gate = gate
        self.port: int = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        # All of it belongs to the thread: who is connected, the oldest first, and who waits for the next scrape.
        self._connections: dict[asyncio.Task[None], float] = {}
        self._waiting: dict[Request, asyncio.Future[Answer]] = {}
        self._asked = asyncio.Event()
        self._thread.start()

    def close(self) -> None:
        """Whoever is connected is cut off."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        # Held here: the event loop alone would forget them.
        tasks: Sequence[asyncio.Task[None]] = [
            self._loop.create_task(self._accept()),
            self._loop.create_task(self._scrapes()),
        ]
        self._loop.run_forever()
        for task in (*tasks, *self._connections):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, *self._connections, return_exceptions=True))
        self._loop.close()

    # ---- connections

    async def _accept(self) -> None:
        problem = ""
        while True:
            while len(self._connections) >= MOST_CONNECTIONS:
                await self._make_room()
            try:
                connection, _ = await self._loop.sock_accept(self._listener)
            except OSError as error:
                if problem != str(error):
                    problem = str(error)
                    log.warning("the metrics port cannot take connections", reason=problem)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            problem = ""
            task = self._loop.create_task(self._serve(connection))
            self._connections[task] = time.monotonic()
            task.add_done_callback(self._connections.pop)

    async def _make_room(self) -> None:
        """Wait until a place is free; where that takes long, by those who have had theirs for long."""
        ended, _ = await asyncio.wait(
            list(self._connections), timeout=STUCK_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if ended:
            return
        stuck = [task for task, began in self._connections.items() if began <= time.monotonic() - STUCK_SECONDS]
        for task in stuck:
            task.cancel()
        if stuck:
            await asyncio.wait(stuck)

    async def _serve(self, connection: socket.socket) -> None:
        """One request and its answer. Whatever goes wrong ends this connection and nothing else."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LONGEST_SECONDS):
                transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls())
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                try:
                    await self._converse(reader, writer)
                finally:
                    transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        while not _whole(head) and len(head) < MOST_HEAD_BYTES:
            received = await reader.read(4096)
            if not received:
                return
            head += received
        writer.write((await self._answer(head, _names(writer.get_extra_info("peercert")))).content())
        if not writer.can_write_eof():
            # By TLS. It says that this is all, and waits for the other to have read so.
            writer.close()
            await writer.wait_closed()
            return
        writer.write_eof()
        # Unread bytes would have the kernel reset the connection, and the answer on its way with it.
        while await reader.read(4096):
            pass

    # ---- scrapes

    async def _answer(self, head: bytes, names: Sequence[str] = ()) -> Answer:
        if not _whole(head):
            return Answer(400, f"the request is longer than {MOST_HEAD_BYTES} bytes\n".encode())
        request = Request.read(head)
        if isinstance(request, Answer):
            return request
        try:
            self._gate(request.authorization, names)
        except Unauthenticated as error:
            return Answer(401, f"{error}\n".encode(), ("WWW-Authenticate: Bearer",))
        except PermissionDenied as error:
            return Answer(403, f"{error}\n".encode())
        request = replace(request, authorization=None)  # all who may are told the same
        if request not in self._waiting:
            self._waiting[request] = self._loop.create_future()
            self._asked.set()
        # Shielded: others wait for the same one, who do not leave with this connection.
        return await asyncio.shield(self._waiting[request])

    async def _scrapes(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, {}
            began = time.monotonic()
            texts: dict[bool, bytes] = {}
            for request, future in waiting.items():
                try:
                    if request.open_metrics not in texts:
                        texts[request.open_metrics] = self._scrape(request.open_metrics)
                    future.set_result(request.answer(texts[request.open_metrics]))
                except Exception as error:
                    log.exception("a scrape failed")
                    future.set_result(Answer(500, f"the scrape failed: {error}\n".encode()))
            await asyncio.sleep(pause(time.monotonic() - began))
