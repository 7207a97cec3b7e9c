"""The methods that a server answers, as generated code registers them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import grpc

from ancestral_server.rpc.grpc_workarounds.reading import Handler


class Registered(grpc.GenericRpcHandler, ABC):
    """Stands in for the server when a generated `add_..._to_server` registers methods: keeps them, wrapped."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @property
    def paths(self) -> Collection[str]:
        """The full names of the methods, "/package.Service/Method"."""
        return self._handlers.keys()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """What answers a call whose headers have come."""
        return self._handlers.get(handler_call_details.method)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Generated code calls this beside the next one, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = self._wrap(service, method, handler)

    @abstractmethod
    def _wrap(self, service: str, method: str, handler: Handler) -> Handler:
        """What answers in the handler's place."""
