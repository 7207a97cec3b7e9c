"""How a client's channel goes: by a proxy, compressed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import toybundle
from ancestral_client import AsyncClient, Client
from ancestral_client._checks import Compression
from running import ServerProcess

SOMEWHERE = "model-server.invalid:8500"
BLACK = np.zeros((20_000, 4, 3, 1), np.uint8)


class Proxy:
    """Takes CONNECT, and leads all to one server; knows which they asked for, and how many bytes they sent."""

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # it is over
                return
            head = b""
            while not head.endswith(b"\r\n\r\n") and (byte := near.recv(1)):
                head += byte
            self.asked.append(head.split(b"\r\n")[0].decode())
            far = socket.create_connection(self._server)
            self._ends += [near, far]
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        outwards = target.getpeername() == self._server
        try:
            while data := source.recv(2**16):
                self.sent += len(data) * outwards
                target.sendall(data)
        except OSError:
            pass


@pytest.fixture
def proxy(toy_server: ServerProcess) -> Iterator[Proxy]:
    proxy = Proxy(toy_server.address)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_proxy_may_be_an_argument(proxy: Proxy, scheme: str) -> None:
    with Client(SOMEWHERE, proxy=scheme + proxy.address, retry_seconds=0) as client:
        assert [model.name for model in client.models()] == ["tally"]
    assert proxy.asked == [f"CONNECT {SOMEWHERE} HTTP/1.1"]


def test_an_argument_goes_before_the_environment(
    proxy: Proxy, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Client(SOMEWHERE, proxy=proxy.address, retry_seconds=0) as client:
        assert client.models()
    # None at all, even for what is not on this machine.
    with Client(toy_server.address.replace("127.0.0.1", "localhost"), proxy="", retry_seconds=0) as client:
        assert client.models()
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("compression", ["none", "deflate", "gzip"])
def test_requests_are_compressed_where_that_is_asked_for(proxy: Proxy, compression: Compression) -> None:
    options: dict[str, Any] = {"proxy": proxy.address, "compression": compression, "retry_seconds": 0}
    with Client(SOMEWHERE, **options) as client:
        assert np.array_equal(client.encode("tally", BLACK).mean, toybundle.encode(BLACK))
    waiting, proxy.sent = proxy.sent, 0

    async def again() -> None:
        async with AsyncClient(SOMEWHERE, **options) as client:
            assert np.array_equal((await client.encode("tally", BLACK)).mean, toybundle.encode(BLACK))

    asyncio.run(again())
    for sent in (waiting, proxy.sent):
        assert (sent > BLACK.nbytes) == (compression == "none")
        assert sent < BLACK.nbytes / 4 or compression == "none"
