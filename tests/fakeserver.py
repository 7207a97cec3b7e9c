"""A gRPC server that answers as a test tells it to, for what the real server cannot be provoked into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _wire
from waiting import PATIENCE

Handler = Callable[[bytes, grpc.ServicerContext], bytes]
StreamHandler = Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]


@dataclass
class FakeServer(grpc.GenericRpcHandler):
    """Every call goes to `answer(request bytes, context)`, SampleStream to `stream`; the calls' names are kept."""

    address: str = ""
    calls: list[str] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    answer: Handler = lambda request, context: b""
    stream: StreamHandler = lambda request, context: iter(())

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.calls.append(handler_call_details.method.rpartition("/")[2])
        self.metadata.append(dict(handler_call_details.invocation_metadata))
        if self.calls[-1] == "SampleStream":
            return grpc.unary_stream_rpc_method_handler(lambda request, context: self.stream(request, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer(request, context))


def image(index: int) -> bytes:
    tensor = _wire.pack(np.full((4, 3, 1), index, np.uint8))
    return pb.SampleStreamResponse(image=pb.SampledImage(index=index, seed=7, image=tensor)).SerializeToString()


class Painter:
    """Sends one image, and then none until the call is cancelled."""

    def __init__(self, fake_server: FakeServer) -> None:
        self.stopped = threading.Event()
        fake_server.stream = self.answer

    def answer(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.stopped.set)
        yield image(0)
        self.stopped.wait(PATIENCE)

    def was_stopped(self) -> bool:
        """Whether the cancellation arrives, long before the deadline."""
        return self.stopped.wait(PATIENCE / 4)
