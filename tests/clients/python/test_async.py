"""AsyncClient: what Client does, awaited."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import ancestral_client as ac
from ancestral_client import AsyncClient, Client
from fakeserver import FakeServer, Painter
from running import ServerProcess
from waiting import PATIENCE

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 1), dtype=np.uint8)
MASK = np.arange(12).reshape(4, 3) < 6


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_names_arguments_and_docstrings() -> None:
    waits, awaited = public(Client), public(AsyncClient)
    assert waits.keys() == awaited.keys()
    for name in ("__init__", *(name for name, value in waits.items() if callable(value))):
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(one) == inspect.signature(other), name
        assert inspect.getdoc(one) == inspect.getdoc(other), name
        assert inspect.getdoc(one), name
        assert name in ("__init__",) or name.endswith("_stream") or inspect.iscoroutinefunction(other), name


def same(one: Any, other: Any) -> None:
    """But for the times and ids of calls."""
    assert type(one) is type(other)
    for name in getattr(one, "__dataclass_fields__", ()):
        mine, theirs = getattr(one, name), getattr(other, name)
        if isinstance(mine, np.ndarray):
            assert np.array_equal(mine, theirs), name
        elif name != "info":
            assert mine == theirs, name


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "models": ((), {}),
    "model": (("tally",), {}),
    "sample": (("tally", 3), {"seed": 7}),
    "complete": (("tally", IMAGES, MASK), {"seed": 7}),
    "encode": (("tally", IMAGES / 255), {"scale": 255}),
    "score": (("tally", IMAGES), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_awaited_call_gives_what_one_that_waits_gives(toy_server: ServerProcess, name: str) -> None:
    arguments, options = CALLS[name]

    async def awaited() -> Any:
        async with AsyncClient(toy_server.address) as client:
            return await getattr(client, name)(*arguments, **options)

    with Client(toy_server.address) as client:
        same(getattr(client, name)(*arguments, **options), asyncio.run(awaited()))


def test_streams_give_what_those_that_wait_give(toy_server: ServerProcess) -> None:
    async def batches() -> AsyncIterator[Any]:
        yield IMAGES[:2]
        yield IMAGES.astype(float)
        yield IMAGES[2:]

    async def ask() -> tuple[dict[int, Any], list[Any]]:
        async with AsyncClient(toy_server.address) as client:
            events = {event.index: event async for event in client.sample_stream("tally", 3, seed=7)}
            parts = client.encode_stream("tally", batches())
            first = await anext(parts)
            with pytest.raises(ac.InvalidArgument, match="message 1: images: must be uint8"):
                await anext(parts)
            return events, [first, *[part async for part in parts]]

    events, parts = asyncio.run(ask())
    with Client(toy_server.address) as client:
        samples = client.sample("tally", 3, seed=7)
        assert np.array_equal(np.stack([events[i].image for i in range(3)]), samples.images)
        assert np.array_equal(np.concatenate([p.mean for p in parts]), client.encode("tally", IMAGES).mean)


def test_many_tasks_share_one_client_and_each_loop_has_its_own_channel(toy_server: ServerProcess) -> None:
    client: AsyncClient = pickle.loads(pickle.dumps(AsyncClient(toy_server.address, timeout=7)))
    assert (client.address, client.timeout) == (toy_server.address, 7)

    async def ask() -> list[int]:
        drawn = await asyncio.gather(*(client.sample("tally", 1, seed=7, first_index=i) for i in range(20)))
        return [samples.first_index for samples in drawn]

    assert asyncio.run(ask()) == asyncio.run(ask()) == list(range(20))
    asyncio.run(client.close())
    with pytest.raises(ac.Unavailable, match="closed"):
        asyncio.run(client.models())


def test_wrong_values_and_missing_servers_are_the_same_errors(toy_server: ServerProcess) -> None:
    async def ask() -> None:
        async with AsyncClient(toy_server.address) as client:
            with pytest.raises(ac.InvalidArgument, match="count: is 0"):
                client.sample_stream("tally", 0)
            with pytest.raises(ac.InvalidArgument, match="known: has shape"):
                await anext(client.sample_stream("tally", 1, given=IMAGES, known=np.ones((9, 9), bool)))
            with pytest.raises(ac.RoleNotSupported) as caught:
                await client.decode("tally", [[0.0, 0.0]])
            assert caught.value.request_id
        async with AsyncClient("127.0.0.1:1", retry_seconds=0) as client:
            with pytest.raises(ac.Unavailable, match="nothing listens"):
                await client.models()

    asyncio.run(ask())


def test_a_stream_stops_the_server_when_it_is_closed_left_cancelled_or_late(fake_server: FakeServer) -> None:
    async def cancelled(client: AsyncClient) -> None:
        stream = client.sample_stream("m", 2)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [event async for event in stream] == []

    async def closed(client: AsyncClient) -> None:
        stream = client.sample_stream("m", 2)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        await stream.close()
        assert await waiting is None

    async def left(client: AsyncClient) -> None:
        async with client.sample_stream("m", 2) as events:
            async for event in events:
                assert event.index == 0
                break

    async def late(client: AsyncClient) -> None:
        stream = client.sample_stream("m", 2, timeout=0.3)
        with pytest.raises(ac.DeadlineExceeded, match=r"within 0\.3 s"):
            async for _ in stream:
                pass

    async def client_closed(client: AsyncClient) -> None:
        stream = client.sample_stream("m", 2)
        await anext(stream)
        await client.close()
        with pytest.raises(ac.Cancelled):
            await anext(stream)

    async def ask(end: Any) -> bool:
        painter = Painter(fake_server)
        async with AsyncClient(fake_server.address, timeout=PATIENCE) as client:
            await end(client)
            return await asyncio.to_thread(painter.was_stopped) or end is late

    for end in (cancelled, closed, left, late, client_closed):
        assert asyncio.run(ask(end)), end
