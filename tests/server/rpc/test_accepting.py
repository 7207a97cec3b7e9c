"""The server that takes gRPC's calls: what it needs of grpc.aio is there, and it ends when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from ancestral_server.rpc.foreign_services import ForeignServices
from ancestral_server.rpc.grpc_workarounds import accepting
from waiting import PATIENCE


def echoes() -> ForeignServices:
    """A service of two methods; `Wait` answers when its caller has left."""
    handlers = ForeignServices()

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    async def wait(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return request

    handlers.add_registered_method_handlers(
        "echo",
        {"Echo": grpc.unary_unary_rpc_method_handler(echo), "Wait": grpc.unary_unary_rpc_method_handler(wait)},
    )
    return handlers


def test_this_version_of_grpc_has_what_is_used_of_it() -> None:
    assert accepting.known()


def test_another_version_is_noticed(monkeypatch: Any) -> None:
    async def _handle_rpc(call: Any, loop: Any) -> None:
        """As another version might have it."""

    monkeypatch.setattr(accepting._core, "_handle_rpc", _handle_rpc)
    assert not accepting.known()
    monkeypatch.delattr(accepting._core, "_handle_rpc")
    assert not accepting.known()


def test_calls_are_answered_side_by_side_and_a_stop_ends_them() -> None:
    async def work() -> None:
        server = accepting.server([echoes()], [])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            echo: Any = channel.unary_unary("/echo/Echo")
            wait: Any = channel.unary_unary("/echo/Wait")
            none: Any = channel.unary_unary("/echo/None")
            waiting = wait(b"")
            said = [str(number).encode() for number in range(200)]
            assert await asyncio.gather(*(echo(text) for text in said)) == said
            assert await none(b"").code() is grpc.StatusCode.UNIMPLEMENTED
            assert not waiting.done()
            # Also when it is stopped from two sides, as when it ended by itself.
            await asyncio.wait_for(asyncio.gather(server.stop(0), server.stop(0)), PATIENCE)
            assert await waiting.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
            assert not await server.wait_for_termination(0)
        left = [task for task in asyncio.all_tasks() if "_take" in repr(task)]
        assert left == []

    asyncio.run(work())
