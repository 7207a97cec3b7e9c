"""The workarounds of the client, and what tells when they may go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client._access import Access, Entry
from ancestral_client._channel import Way
from ancestral_client._grpc_workarounds import kept_status
from ancestral_client._rpcs import Rpc
from ancestral_client._transport import Asyncio
from waiting import PATIENCE


def test_grpc_is_the_one_that_was_looked_at() -> None:
    """If this fails: see whether grpc.aio still loses the status of a stream that ends while it is written to, which
    nearly every call of the next test does where `kept_status.kept` leaves calls as they are.
    """
    assert grpc.__version__.startswith("1.85.")


class Refusing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def refuse(_: Any, context: Any) -> AsyncIterator[bytes]:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "you may not")
            yield b""

        return grpc.stream_stream_rpc_method_handler(refuse)


def test_a_stream_that_is_refused_while_it_is_written_to_keeps_its_status() -> None:
    async def run() -> Counter[Any]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Refusing(),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        transport = Asyncio(Way(address, 2**20), Entry(Access(tls=False), address))
        stream: Rpc[pb.EncodeStreamRequest, pb.EncodeStreamResponse] = Rpc("inference", "EncodeStream")
        heard: Counter[Any] = Counter()
        for _ in range(30):
            outbox = transport.outbox(lambda message: message)
            for _ in range(20):
                outbox.put(pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="x" * 1000)))
            call = transport.begin(stream, outbox, {"timeout": PATIENCE})
            with pytest.raises(grpc.RpcError) as refused:
                await transport.read(call)
            error: Any = refused.value
            heard[error.code(), error.details()] += 1
        await transport.close()
        await server.stop(None)
        return heard

    assert asyncio.run(run()) == {(grpc.StatusCode.PERMISSION_DENIED, "you may not"): 30}


class Core:
    """What a call has inside."""

    def __init__(self, *, over: bool) -> None:
        self.over = over
        self.said = ""

    def done(self) -> bool:
        return self.over

    def set_internal_error(self, said: str) -> None:
        self.said = said


@pytest.mark.parametrize(
    ("over", "said", "told"),
    [
        # No other status need follow.
        (False, "Failed grpc_call_start_batch: 8 with grpc_call_error value: 'TOO_MANY_OPERATIONS'", True),
        (True, "Failed grpc_call_start_batch: 8 with grpc_call_error value: 'TOO_MANY_OPERATIONS'", False),
        (False, 'Failed "execute_batch": (<SendMessageOperation>,)', False),
        (True, 'Failed "execute_batch": (<SendMessageOperation>,)', False),
    ],
)
def test_only_a_write_that_was_not_begun_sets_a_status(over: bool, said: str, told: bool) -> None:
    class Call:
        _cython_call = Core(over=over)

    core = Call._cython_call
    kept_status.kept(Call)._cython_call.set_internal_error(said)
    assert core.said == (said if told else "")


def test_a_call_with_another_inside_is_left_as_it_is() -> None:
    call = object()
    assert kept_status.kept(call) is call
