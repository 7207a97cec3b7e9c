"""Callers that never rest: each asks, checks what it is told against the version that says it, and asks again."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType

import grpc
import numpy as np

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, tensor_pb2
from waiting import PATIENCE, until


@dataclass
class Call:
    """One call and how it ended. `wrong` says what is wrong with its reply."""

    request_id: str
    began: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    version: int = 0
    mark: float = 0.0
    wrong: str = ""


@dataclass
class Callers:
    """`encoders` + `samplers` closed loops on model `tally`, on a thread of their own, without retries.

    marks: what each version may add to its codes (see toybundle.write).
    """

    address: str
    marks: dict[int, set[float]]
    encoders: int = 12
    samplers: int = 4
    calls: list[Call] = field(default_factory=list)
    _stop: bool = False

    def __enter__(self) -> Callers:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        self._thread.join()

    def wait_for_version(self, version: int) -> None:
        """Until a call that began after this one has been answered by `version`."""
        began = time.monotonic()
        until(lambda: any(call.version == version for call in self.calls if call.began > began))

    async def _run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [grpc.aio.insecure_channel(self.address, options=options) for _ in range(4)]
        stubs = [inference_service_pb2_grpc.InferenceServiceStub(channel) for channel in channels]
        await asyncio.gather(
            *(self._loop(stubs[i % 4], i, samples=i >= self.encoders) for i in range(self.encoders + self.samplers))
        )
        for channel in channels:
            await channel.close()

    async def _loop(
        self, stub: inference_service_pb2_grpc.InferenceServiceAsyncStub, seed: int, *, samples: bool
    ) -> None:
        ask = self._sample if samples else self._encode
        random = np.random.default_rng(seed)
        while not self._stop:
            call = Call(uuid.uuid4().hex, time.monotonic())
            try:
                await ask(stub, call, random)
            except grpc.aio.AioRpcError as error:
                call.code, call.details = error.code(), error.details() or ""
                await asyncio.sleep(0.01)
            self.calls.append(call)

    async def _encode(
        self, stub: inference_service_pb2_grpc.InferenceServiceAsyncStub, call: Call, random: np.random.Generator
    ) -> None:
        images = random.integers(0, 256, (1, toybundle.HEIGHT, toybundle.WIDTH, 1), dtype=np.uint8)
        tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=images.shape, data=images.tobytes())
        request = pb.EncodeRequest(model="tally", images=tensor)
        reply = await stub.Encode(request, timeout=PATIENCE, metadata=(("x-request-id", call.request_id),))
        call.version = reply.info.version
        code = np.frombuffer(reply.mean.data, np.float32)
        call.mark = round(float(code[0] - toybundle.encode(images)[0, 0]))
        if not np.allclose(code, toybundle.encode(images, call.mark)[0], atol=1e-3):
            call.wrong = f"version {call.version} gave {code} for another image"
        elif call.mark not in self.marks[call.version]:
            call.wrong = f"version {call.version} answered like another one: mark {call.mark}"

    async def _sample(
        self, stub: inference_service_pb2_grpc.InferenceServiceAsyncStub, call: Call, random: np.random.Generator
    ) -> None:
        seed = int(random.integers(2**40))
        request = pb.SampleRequest(model="tally", count=40, seed=seed)
        reply = await stub.Sample(request, timeout=PATIENCE, metadata=(("x-request-id", call.request_id),))
        call.version = reply.info.version
        shape = (toybundle.HEIGHT, toybundle.WIDTH, 1)
        if reply.images.data != toybundle.paint(uniforms_of_range(seed, 0, 40, shape))[0].tobytes():
            call.wrong = f"version {call.version} painted other images"
