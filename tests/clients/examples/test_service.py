"""The service of the examples: over the real server, and over one that fails as it is told to."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
from PIL import Image

from ancestral_client import AncestralError, Client, InvalidArgument, Overloaded, Unavailable
from ancestral_client.testing import FakeServer
from running import ServerProcess

EXAMPLE = Path(__file__).parents[3] / "clients" / "examples" / "service.py"
Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("service", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service", module)  # where FastAPI looks up annotations
    spec.loader.exec_module(module)
    return module


def png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


DIGIT = np.arange(64, dtype=np.uint8).reshape(8, 8)


def talk(service: ModuleType, talking: Callable[[Ask], Awaitable[None]]) -> None:
    """Runs the service, and who asks it."""

    async def main() -> None:
        transport = httpx.ASGITransport(service.app)
        async with (
            service.connected(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as web,
        ):

            async def ask(body: bytes = png(DIGIT), timeout_ms: int = 30_000) -> httpx.Response:
                return await web.post("/features", content=body, params={"timeout_ms": timeout_ms})

            await talking(ask)

    asyncio.run(main())


def test_a_picture_becomes_features(
    service: ModuleType, digits_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANCESTRAL_ADDRESS", digits_server.address)
    with Client(digits_server.address) as client:
        expected = client.encode("digits-vae", DIGIT).mean[0]

    async def talking(ask: Ask) -> None:
        found = await ask()
        assert found.status_code == 200, found.text
        assert found.json()["model"] == "digits-vae"
        np.testing.assert_array_equal(np.float32(found.json()["features"]), expected)
        for body, status, problem in (
            (b"", 422, "no picture"),
            (b"Dear model", 422, "no picture"),
            (png(DIGIT)[:45], 422, "no picture"),
            (png(DIGIT[:7]), 422, "8×7; digits-vae takes 8×8"),
            (bytes(service.MOST_BYTES + 1), 413, "at most"),
        ):
            refused = await ask(body)
            assert (refused.status_code, problem in refused.json()["detail"]) == (status, True), refused.text
        assert (await ask(timeout_ms=1)).status_code == 422

    talk(service, talking)


def test_the_circuit_opens_tries_and_closes(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, now = FakeServer(), [0.0]
    monkeypatch.setattr(service, "AsyncClient", lambda address: fake.async_client(address, retry_seconds=0))
    monkeypatch.setattr(service, "MODEL", "toy-vae")

    async def talking(ask: Ask) -> None:
        service.app.state.circuit = service.Circuit(failures=3, seconds=5, now=lambda: now[0])
        assert (await ask()).status_code == 200
        fake.fail(Unavailable("gone"), times=None)
        for _ in range(3):
            assert (await ask()).status_code == 503
        asked = len(fake.calls)
        refused = await ask()
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert len(fake.calls) == asked  # nobody was asked
        now[0] += 5
        assert (await ask()).status_code == 503  # one tries, in vain
        assert len(fake.calls) > asked
        asked = len(fake.calls)
        assert (await ask()).status_code == 503
        assert len(fake.calls) == asked
        fake.heal()
        now[0] += 5
        assert (await ask()).status_code == 200
        assert (await ask(b"no picture")).status_code == 422
        assert (await ask()).status_code == 200

    talk(service, talking)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("busy", retry_after=2.5), 503, "3"),
        (Unavailable("gone"), 503, "1"),
        (InvalidArgument("wrong"), 422, None),
    ],
)
def test_errors_are_told_as_http_has_them(
    service: ModuleType, monkeypatch: pytest.MonkeyPatch, error: AncestralError, status: int, retry_after: str | None
) -> None:
    fake = FakeServer()
    monkeypatch.setattr(service, "AsyncClient", lambda address: fake.async_client(address, retry_seconds=0))
    monkeypatch.setattr(service, "MODEL", "toy-vae")
    fake.fail(error, call="encode")

    async def talking(ask: Ask) -> None:
        found = await ask()
        assert (found.status_code, found.headers.get("Retry-After")) == (status, retry_after)

    talk(service, talking)


def test_who_waits_no_longer_is_told_so(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer(seconds=0.4)  # of the fake's own clock, for each of two calls
    monkeypatch.setattr(service, "AsyncClient", fake.async_client)
    monkeypatch.setattr(service, "MODEL", "toy-vae")

    async def talking(ask: Ask) -> None:
        assert (await ask(timeout_ms=30_000)).status_code == 200
        assert (await ask(timeout_ms=300)).status_code == 504

    talk(service, talking)
