"""A link to a server that carries only so many bytes a second from it, or none: what a caller far away sees."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType

CHUNK = 16 * 1024
OPEN = threading.Event()
OPEN.set()


class SlowLink:
    """Forwards connections to `address`; `bytes_per_second` of answers, requests at once. A context manager."""

    def __init__(self, address: str, bytes_per_second: float) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._rate = bytes_per_second
        # While it is clear, no answer gets through, and a server that stops waits for whoever asked.
        self.answers = threading.Event()
        self.answers.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SlowLink:
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
            far = socket.socket()
            # What has been received is not yet carried: let little of it wait here.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
            far.connect((self._host, self._port))
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(near, far, float("inf"), OPEN), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, self._rate, self.answers), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, rate: float, gate: threading.Event) -> None:
        try:
            while data := source.recv(CHUNK):
                gate.wait()
                target.sendall(data)
                time.sleep(len(data) / rate)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # either end is gone: so is the connection
            for end in (source, target):
                end.close()
