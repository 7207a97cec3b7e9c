"""Calls about the models themselves: which there are, and having them loaded and unloaded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ancestral.v1 import model_service_pb2
from ancestral_client import _checks, _wire
from ancestral_client._attempts import Attempts, call
from ancestral_client._connection import Connection
from ancestral_client.results import Model


class ModelCalls(ABC):
    """Part of `Client`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @abstractmethod
    def _attempts(self, timeout: float | None) -> Attempts:
        """What is tried, and until when."""

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version, including those that do not serve.

        `timeout` is that of all pages together, where they are more than fits one answer.
        """
        attempts, request = self._attempts(timeout), model_service_pb2.ListModelsRequest()
        found: list[Model] = []
        while True:
            reply = call(self._connection.models.ListModels, request, attempts)
            found += map(_wire.model, reply.models)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """What one model is and can do."""
        request = model_service_pb2.GetModelRequest(
            name=_checks.name_of("name", name), version=_checks.version_of(version)
        )
        return _wire.model(call(self._connection.models.GetModel, request, self._attempts(timeout)).model)

    def load(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """Has a version loaded, or loaded anew, from the server's folder: the highest there unless `version` says.

        Returns when it serves; a BundleRefused leaves what served before in place.
        """
        request = model_service_pb2.LoadModelRequest(
            name=_checks.name_of("name", name), version=_checks.version_of(version)
        )
        return _wire.model(call(self._connection.models.LoadModel, request, self._attempts(timeout)).model)

    def unload(self, name: str, version: int = 0, *, timeout: float | None = None) -> None:
        """Has a version taken out of service, or all of them; returns when their running calls have ended."""
        request = model_service_pb2.UnloadModelRequest(
            name=_checks.name_of("name", name), version=_checks.version_of(version)
        )
        call(self._connection.models.UnloadModel, request, self._attempts(timeout))
