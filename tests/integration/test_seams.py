"""What comes next has a place: other credentials than none, and a third recorder of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_server.catalog import Catalog, Watcher
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.job import Job
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.recording import Call, CallRecorder, End
from ancestral_server.rpc.roles import RoleMaker
from ancestral_server.rpc.server import GrpcServer
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from waiting import PATIENCE
from wire import tensor, toy_images


class Local:
    """Credentials that gRPC has for connections of one machine: they need no certificates, and no other client may
    connect.
    """

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        return server.add_secure_port(address, grpc.local_server_credentials())


class Heard(CallRecorder):
    """A recorder that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.ids: set[str] = set()

    def begin(self, call: Call) -> None:
        self.ids.add(call.request_id)
        self.events.append(f"begin {call.method.name}")

    def admitted(self, call: Call, job: Job) -> None:
        self.events.append(f"admitted {job.rows}")

    def ran(self, call: Call, job: Job) -> None:
        assert job.finished >= job.started >= job.submitted >= call.began > 0
        self.events.append(f"ran in {job.batch_size}")

    def ended(self, call: Call, end: End) -> None:
        assert end.seconds > 0
        self.events.append(f"ended {end.code.name} {'' if end.error is None else end.error.reason}".strip())


Stub = inference_service_pb2_grpc.InferenceServiceStub


def serve(models: Path, heard: Heard, work: Callable[[str], Awaitable[None]]) -> None:
    async def main() -> None:
        settings = Settings(models=models, device="cpu", port=0, poll_seconds=0, threads=1, max_queue_ms=3_600_000)
        metrics, arrivals = Metrics("test"), Arrivals()
        catalog = Catalog(settings, Runtime("cpu", 1), metrics, arrivals, RoleMaker(settings))
        server = GrpcServer(catalog, metrics, arrivals, settings, Local(), [heard])
        await Watcher(catalog, settings).start()
        await server.open()
        try:
            async with asyncio.timeout(PATIENCE):
                await work(f"127.0.0.1:{server.port}")
        finally:
            await server.shut()
            await catalog.drain(5)
            # Otherwise it ends with its process.
            await server._server.stop(0)

    asyncio.run(main())


def test_other_credentials_and_a_third_recorder_need_no_change_of_the_server(toy_models: Path) -> None:
    heard = Heard()
    image = tensor(toy_images(1))

    async def work(address: str) -> None:
        async with grpc.aio.secure_channel(address, grpc.local_channel_credentials()) as channel:
            stub = Stub(channel)
            request = pb.EncodeRequest(model="tally", images=image)
            await stub.Encode(request, metadata=(("x-request-id", "mine"),))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Encode(pb.EncodeRequest(model="tally"))
            stream = stub.EncodeStream(iter([pb.EncodeStreamRequest(encode=request)]))
            assert [answer.index async for answer in stream] == [0]
            async for _ in stub.SampleStream(pb.SampleStreamRequest(sample=pb.SampleRequest(model="tally", count=1))):
                pass
            # The end of a call is recorded after its last message was sent.
            while sum(event.startswith("ended") for event in heard.events) < 4:
                await asyncio.sleep(0)

    serve(toy_models, heard, work)
    done = ["admitted 1", "ran in 1"]
    assert heard.events == [
        *("begin Encode", *done, "ended OK"),
        *("begin Encode", "ended INVALID_ARGUMENT INVALID_ARGUMENT"),
        *("begin EncodeStream", *done, "ended OK"),
        *("begin SampleStream", *done, "ended OK"),
    ]
    assert len(heard.ids) == 4
    assert "mine" in heard.ids
