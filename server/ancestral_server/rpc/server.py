"""The gRPC server: our services, health, reflection and channel options, bound but not yet serving."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ancestral.v1 import inference_service_pb2, inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral_server.catalog import Catalog
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import StartupError
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.inference import InferenceServicer
from ancestral_server.rpc.models import ModelServicer
from ancestral_server.rpc.observed import Observed
from ancestral_server.rpc.open_inference.servicer import OpenInferenceServicer
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2, open_inference_service_pb2_grpc

_SERVICES = (
    inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    open_inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Door:
    """The listening server and its health."""

    def __init__(self, catalog: Catalog, metrics: Metrics, arrivals: Arrivals, settings: Settings) -> None:
        self._catalog = catalog
        self._health = health.aio.HealthServicer()
        self._draining = Draining()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # With it two servers could listen on one port, each getting a part of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        observed: Any = Observed(metrics, arrivals, log_calls=settings.log_calls)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(catalog, settings, self._draining), observed
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog, settings), observed)
        open_inference_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            OpenInferenceServicer(catalog, settings), observed
        )
        self._server.add_generic_rpc_handlers((observed,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*(service.full_name for service in _SERVICES), health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            self.port = self._server.add_insecure_port(f"{settings.host}:{settings.port}")
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {settings.host}:{settings.port}: is the port in use? Choose another with --port"
            ) from error

    async def open(self) -> None:
        """Start answering; health per model NAME and NAME/VERSION, per service, and "" for the whole server."""
        for model in self._catalog:
            await self._health.set(f"{model.name}/{model.version}", SERVING if model.serving else NOT_SERVING)
        for name in {model.name for model in self._catalog}:
            serving = self._catalog.describe(name, 0).serving
            await self._health.set(name, SERVING if serving else NOT_SERVING)
        for service in _SERVICES:
            await self._health.set(service.full_name, SERVING)
        await self._health.set(health.OVERALL_HEALTH, SERVING)
        await self._server.start()

    async def close(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, refuse new calls, bring streams to an end, let the rest finish for so long."""
        self._draining.begin()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain_seconds)
