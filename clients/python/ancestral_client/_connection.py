"""The channel of a client and the stubs on it, one for each process that uses the client."""

from __future__ import annotations

import os

import grpc

from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2_grpc
from ancestral_client import _channel
from ancestral_client.errors import Unavailable

# Channels of processes that this one was forked from. To let go of one would end the parent's connection.
_INHERITED: list[grpc.Channel] = []


class Connection:
    """Stubs of the services at an address. A forked process gets a channel of its own: one cannot be shared."""

    def __init__(self, address: str, max_message_bytes: int) -> None:
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._closed = False
        self._open()

    @property
    def inference(self) -> inference_service_pb2_grpc.InferenceServiceStub:
        self._own()
        return self._inference

    @property
    def models(self) -> model_service_pb2_grpc.ModelServiceStub:
        self._own()
        return self._models

    def close(self) -> None:
        """Calls in flight are cancelled, and no others can be made."""
        self._closed = True
        if self._process == os.getpid():
            self._channel.close()

    def _open(self) -> None:
        self._process = os.getpid()
        self._channel = _channel.open_channel(self._address, self._max_message_bytes)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def _own(self) -> None:
        if self._closed:
            raise Unavailable("this client was closed; make another one", connected=False)
        if self._process != os.getpid():
            _INHERITED.append(self._channel)
            self._open()
