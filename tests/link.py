"""A link between callers and a server, as there are between machines: slow, held up, by a proxy, listened in to."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

_CHUNK = 16 * 1024

Heard = Callable[[bytes], None]


class Link:
    """Forwards connections to `address`. A context manager.

    bytes_per_second: of answers; requests are carried at once. proxy: callers say with CONNECT where to they want, and
    are led to `address` all the same. heard: is given every piece of an answer, before it goes on.
    """

    def __init__(
        self, address: str, bytes_per_second: float = math.inf, *, proxy: bool = False, heard: Heard = lambda _: None
    ) -> None:
        host, _, port = address.rpartition(":")
        self._server = host, int(port)
        self._rate = bytes_per_second
        self._proxy = proxy
        self._heard = heard
        self.asked: list[str] = []
        """The first lines of what a proxy was asked."""
        self.sent = 0
        """Bytes of requests, of all connections."""
        self.answers = threading.Event()
        """While it is clear, no answer gets through, and a server that stops waits for whoever asked."""
        self.answers.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Link:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answers.set()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # it is over
                return
            if self._proxy:
                self.asked.append(_head(near).split(b"\r\n")[0].decode())
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            far = socket.socket()
            # What has been received is not yet carried: let little of it wait here.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
            far.connect(self._server)
            self._ends += [near, far]
            threading.Thread(target=_carry, args=(near, far, self._request), daemon=True).start()
            threading.Thread(target=_carry, args=(far, near, self._answer), daemon=True).start()

    def _request(self, piece: bytes, target: socket.socket) -> None:
        self.sent += len(piece)
        target.sendall(piece)

    def _answer(self, piece: bytes, target: socket.socket) -> None:
        self.answers.wait()
        self._heard(piece)
        target.sendall(piece)
        time.sleep(len(piece) / self._rate)


def _head(connection: socket.socket) -> bytes:
    """What a caller tells a proxy first, up to the empty line, or until it hangs up."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := connection.recv(1)):
        head += byte
    return head


def _carry(source: socket.socket, target: socket.socket, on: Callable[[bytes, socket.socket], None]) -> None:
    """Hand each piece `on` to the target until there is none."""
    try:
        while piece := source.recv(_CHUNK):
            on(piece, target)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # either end is gone: so is the connection
        for end in (source, target):
            end.close()
