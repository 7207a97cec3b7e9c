"""How a client's channel goes: by a proxy, compressed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import toybundle
from ancestral_client import AsyncClient, Client
from ancestral_client._arguments import Compression
from link import Link
from running import ServerProcess

SOMEWHERE = "model-server.invalid:8500"
BLACK = np.zeros((20_000, 4, 3, 1), np.uint8)


@pytest.fixture
def proxy(toy_server: ServerProcess) -> Iterator[Link]:
    with Link(toy_server.address, proxy=True) as link:
        yield link


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_proxy_may_be_an_argument(proxy: Link, scheme: str) -> None:
    with Client(SOMEWHERE, proxy=scheme + proxy.address, retry_seconds=0) as client:
        assert [model.name for model in client.models()] == ["tally"]
    assert proxy.asked == [f"CONNECT {SOMEWHERE} HTTP/1.1"]


def test_an_argument_goes_before_the_environment(
    proxy: Link, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Client(SOMEWHERE, proxy=proxy.address, retry_seconds=0) as client:
        assert client.models()
    # None at all, even for what is not on this machine.
    with Client(toy_server.address.replace("127.0.0.1", "localhost"), proxy="", retry_seconds=0) as client:
        assert client.models()
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("compression", ["none", "deflate", "gzip"])
def test_requests_are_compressed_where_that_is_asked_for(proxy: Link, compression: Compression) -> None:
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
