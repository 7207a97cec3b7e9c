"""The gRPC server: our services, health, reflection and channel options, bound but not yet serving."""

from __future__ import annotations

import asyncio

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ancestral.v1 import inference_service_pb2, inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral_server.catalog import Catalog
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import StartupError
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.inference import InferenceServicer
from ancestral_server.rpc.interceptor import CallInterceptor
from ancestral_server.rpc.models import ModelServicer
from ancestral_server.settings import Settings

log = structlog.get_logger()

PACKAGE = "ancestral.v1"
# How often to look whether the server still runs.
LOOK_SECONDS = 0.1
_SERVICES = (
    inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Door:
    """The listening server and its health."""

    def __init__(self, catalog: Catalog, metrics: Metrics, arrivals: Arrivals, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._interceptor = CallInterceptor(metrics, arrivals, PACKAGE, log_calls=settings.log_calls)
        metrics.declare(
            ("server_stream" if method.server_streaming else "unary", service.full_name, method.name)
            for service in _SERVICES
            for method in service.methods
        )
        self._inference = InferenceServicer(catalog, settings)
        self._models = ModelServicer(catalog, settings)
        self._keeper: asyncio.Task[None] | None = None
        # Former servers that still finish what they had begun.
        self._ended: set[asyncio.Task[None]] = set()
        try:
            self._server, self.port = self._bind(settings.port)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {settings.host}:{settings.port}: is the port in use? Choose another with --port"
            ) from error

    def _bind(self, port: int) -> tuple[grpc.aio.Server, int]:
        """A server with all services, listening but not yet answering, and its port."""
        server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=[
                ("grpc.max_receive_message_length", self._settings.max_message_bytes),
                ("grpc.max_send_message_length", self._settings.max_message_bytes),
                # With it two servers could listen on one port, each getting a part of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(self._inference, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self._models, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*(service.full_name for service in _SERVICES), health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server, server.add_insecure_port(f"{self._settings.host}:{port}")

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
        self._keeper = asyncio.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        """Open again when grpc.aio's own loop has ended: a method name that is no UTF-8 is enough to end it (1.85)."""
        while True:
            try:
                await self._server.wait_for_termination(LOOK_SECONDS)
                continue
            except Exception as error:
                log.exception("the gRPC server ended, opening again", reason=str(error))
            # What it had begun goes on in the old one, whose port is free at once or in a moment.
            ended = asyncio.create_task(self._server.stop(self._settings.drain_seconds))
            self._ended.add(ended)
            ended.add_done_callback(self._ended.discard)
            while True:
                try:
                    self._server, _ = self._bind(self.port)
                    break
                except RuntimeError:
                    await asyncio.sleep(LOOK_SECONDS)
            await self._server.start()

    async def close(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, refuse new calls, let the running ones finish for so long."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain_seconds)
