"""What cannot be read is the caller's fault, in every service of the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from ancestral_server.rpc.grpc_workarounds import reading
from rpcs import Rpc, replies, rpcs_of
from running import ServerProcess
from waiting import PATIENCE

NO_MESSAGE = b"\xff\xff\xff"


async def outcome(address: str, rpc: Rpc, requests: Sequence[bytes]) -> tuple[grpc.StatusCode, str]:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            async for _ in replies(rpc.call(channel, requests, timeout=PATIENCE)):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def test_bytes_that_are_no_message_are_refused_by_every_method(toy_server: ServerProcess) -> None:
    rpcs = rpcs_of(toy_server.address)
    assert {"Encode", "SampleStream", "GetModel", "Check", "Watch", "ServerReflectionInfo"} <= {r.name for r in rpcs}
    for rpc in rpcs:
        code, details = asyncio.run(outcome(toy_server.address, rpc, [NO_MESSAGE]))
        if rpc.name in ("EncodeStream", "ScoreStream", "ModelStreamInfer"):
            # An error of one message is an answer of the stream, which goes on: tests/integration/test_bulk.py and
            # open_inference/test_streaming.py.
            assert code is grpc.StatusCode.OK, rpc.path
            continue
        assert code is grpc.StatusCode.INVALID_ARGUMENT, rpc.path
        assert "cannot be parsed" in details, rpc.path


def test_a_call_without_a_message_is_answered_at_once_by_every_method(toy_server: ServerProcess) -> None:
    for rpc in rpcs_of(toy_server.address):
        if not rpc.takes_many:
            code, details = asyncio.run(outcome(toy_server.address, rpc, []))
            assert code is grpc.StatusCode.INVALID_ARGUMENT, rpc.path
            assert "closed without a message" in details, rpc.path


@pytest.mark.parametrize("method", ["Encode", "SampleStream"])
def test_what_cannot_be_read_is_counted_like_any_other_refusal(toy_server: ServerProcess, method: str) -> None:
    labels: dict[str, Any] = {"grpc_method": method, "grpc_code": "InvalidArgument"}
    before = toy_server.metric("grpc_server_handled_total", **labels)
    (rpc,) = (rpc for rpc in rpcs_of(toy_server.address) if rpc.name == method)
    asyncio.run(outcome(toy_server.address, rpc, [NO_MESSAGE]))
    assert toy_server.metric("grpc_server_handled_total", **labels) == before + 1


def test_health_and_reflection_still_answer_right_requests(toy_server: ServerProcess) -> None:
    for rpc in rpcs_of(toy_server.address):
        if rpc.name == "Check":
            assert asyncio.run(outcome(toy_server.address, rpc, [b""])) == (grpc.StatusCode.OK, "")


def test_a_read_ends_although_its_caller_has_left() -> None:
    class Slow:
        """A context whose message comes when it is told to."""

        def __init__(self) -> None:
            self.begun, self.may_end, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def read(self) -> bytes:
            self.begun.set()
            await self.may_end.wait()
            self.ended.set()
            return b""

    async def work() -> None:
        context: Any = Slow()
        pending = asyncio.ensure_future(reading.one(context))
        await context.begun.wait()
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        context.may_end.set()
        await asyncio.wait_for(context.ended.wait(), PATIENCE)

    asyncio.run(work())
