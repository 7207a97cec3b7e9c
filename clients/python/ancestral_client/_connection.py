"""The channel of a client, and the stubs on it until it is closed."""

from __future__ import annotations

from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2_grpc
from ancestral_client import _channel
from ancestral_client.errors import Unavailable


class Connection:
    """Stubs of the services at an address. Unavailable is raised by who asks for them once it is closed."""

    def __init__(self, address: str, max_message_bytes: int) -> None:
        self._closed = False
        self._channel = _channel.open_channel(address, max_message_bytes)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    @property
    def inference(self) -> inference_service_pb2_grpc.InferenceServiceStub:
        self._check_open()
        return self._inference

    @property
    def models(self) -> model_service_pb2_grpc.ModelServiceStub:
        self._check_open()
        return self._models

    def close(self) -> None:
        """Calls in flight are cancelled, and no others can be made."""
        self._closed = True
        self._channel.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this client was closed; make another one", connected=False)
