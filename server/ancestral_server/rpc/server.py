"""The gRPC server: our services, health, reflection and channel options, bound but not yet serving."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ancestral.v1 import inference_service_pb2, inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral_server.addresses import bound, joined
from ancestral_server.catalog import Catalog, Key
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import StartupError
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.credentials import Credentials, Insecure
from ancestral_server.rpc.door import Door
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.foreign_services import ForeignServices
from ancestral_server.rpc.grpc_workarounds import accepting
from ancestral_server.rpc.grpc_workarounds.health_list import Health
from ancestral_server.rpc.grpc_workarounds.reflecting import add_reflection
from ancestral_server.rpc.inference import InferenceServicer
from ancestral_server.rpc.interceptor import CallInterceptor
from ancestral_server.rpc.models import ModelServicer
from ancestral_server.rpc.open_inference.servicer import OpenInferenceServicer
from ancestral_server.rpc.recorders import CallerAccounts, CallLog, CallMetrics, FailureLog
from ancestral_server.rpc.recording import CallRecorder, Recorders, SomeCalls
from ancestral_server.rpc.refusals import RefusalLog
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2, open_inference_service_pb2_grpc
from inference import pool as inference_pool

log = structlog.get_logger()

# How often to look whether the server still runs.
LOOK_SECONDS = 0.1
_SERVICES = (
    inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    open_inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
)
# Calls that gRPC has read and that wait for the event loop, which refuses what is too much and says why; gRPC's own
# refusal, by chance from 1,000 on, is CANCELLED and says nothing.
MOST_PENDING_CALLS = 30_000
# Of a connection: until it has said that it speaks HTTP/2. gRPC's own is two minutes, in which the silent could take
# every file descriptor that the process has.
HANDSHAKE_SECONDS = 10.0
# A question for health holds a model's name and nothing else.
MOST_PROBE_BYTES = 16 * 1024
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def _told_of(host: str, port: int, flag: str) -> Iterator[None]:
    """Says which flag's port it is that nothing can listen on, and why."""
    try:
        yield
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {joined(host, port)}: {why_not(host, port)}; choose another with {flag} or --host"
        ) from error


def why_not(host: str, port: int) -> str:
    """Why nothing can listen there: gRPC tells it to its own log only."""
    try:
        bound(host, port).close()
    except OSError as error:
        return str(error.strerror)
    return "gRPC refuses it"


class GrpcServer:
    """The listening server and its health.

    recorders: who is told what becomes of calls, beside metrics and the log. door: who lets calls in; None: all. some:
    who is told of those calls alone that it chooses.
    """

    def __init__(
        self,
        catalog: Catalog,
        metrics: Metrics,
        arrivals: Arrivals,
        settings: Settings,
        credentials: Credentials,
        recorders: Sequence[CallRecorder] = (),
        door: Door | None = None,
        some: SomeCalls | None = None,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._credentials = credentials
        self._health = Health()
        # What health says of the models, by name; and the versions that are no longer as they were then.
        self._told: dict[str, int] = {}
        self._changed: set[Key] = set()
        self._news = asyncio.Event()
        self._draining = Draining()
        self._refusals = RefusalLog()
        lines = CallLog(self._refusals, settings.log_ratio) if settings.log_calls else FailureLog(self._refusals)
        # The recorders that are given come first: the log tells what they know of a call.
        told = [*recorders, CallMetrics(metrics), lines]
        recorder = Recorders(told if door is None else [*told, CallerAccounts()], some)
        ours: Any = CallInterceptor(recorder, arrivals, self._draining, door)
        # Any: its methods are those that the roles name.
        inference: Any = InferenceServicer(catalog, settings, self._draining)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(inference, ours)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog, settings), ours)
        open_inference_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            OpenInferenceServicer(catalog, settings, self._draining), ours
        )
        others: Any = ForeignServices(door)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, others)
        names = (*(service.full_name for service in _SERVICES), health.SERVICE_NAME)
        add_reflection(names, (descriptor_pool.Default(), inference_pool.Default()), others)
        self._handlers = (ours, others)
        # What goes on while the server is open; and former servers that still finish what they had begun.
        self._keepers: list[asyncio.Task[None]] = []
        self._ended: set[asyncio.Task[None]] = set()
        with _told_of(settings.host, settings.port, "--port"):
            self._server, self.port = self._bind(settings.port)
        self._probes: grpc.aio.Server | None = None
        self.health_port: int | None = None
        if settings.health_port is not None:
            with _told_of(settings.host, settings.health_port, "--health-port"):
                self._probes, self.health_port = self._bind_probes(settings.health_port)

    def _bind_probes(self, port: int) -> tuple[grpc.aio.Server, int]:
        """A server that tells anybody the health of what they name, and of nothing else; its port."""
        # List would name the models.
        health_alone: Any = ForeignServices(without=("List",))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, health_alone)
        server = accepting.server(
            [health_alone],
            [
                ("grpc.max_receive_message_length", MOST_PROBE_BYTES),
                ("grpc.so_reuseport", int(self._settings.share_port)),
                *self._pings(),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
            ],
        )
        return server, Insecure().add_port(server, joined(self._settings.host, port))

    def _bind(self, port: int) -> tuple[grpc.aio.Server, int]:
        """A server with all services, listening but not yet answering, and its port."""
        server = accepting.server(
            self._handlers,
            [
                ("grpc.max_receive_message_length", self._settings.max_message_bytes),
                ("grpc.max_send_message_length", self._settings.max_message_bytes),
                # With it two servers can listen on one port, each getting a part of the calls: not unasked.
                ("grpc.so_reuseport", int(self._settings.share_port)),
                *self._pings(),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
                ("grpc.server.max_pending_requests", MOST_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING_CALLS),
            ],
        )
        return server, self._credentials.add_port(server, joined(self._settings.host, port))

    def _pings(self) -> list[tuple[str, int]]:
        """How often clients may ping while the server sends nothing, with calls and without; gRPC's own bounds are 5
        minutes and 2 hours, and many clients are set to pings of 10 to 60 s, to be sooner than what lies between.
        """
        shortest = round(self._settings.min_ping_seconds * 1000)
        return [("grpc.http2.min_ping_interval_without_data_ms", shortest), ("grpc.keepalive_permit_without_calls", 1)]

    async def open(self) -> None:
        """Start answering; health per model NAME and NAME/VERSION, per service, and "" for the whole server."""
        self._catalog.on_change = self._note
        await self._tell_health([model.key for model in self._catalog])
        for service in _SERVICES:
            await self._health.set(service.full_name, SERVING)
        await self._health.set(health.OVERALL_HEALTH, SERVING)
        await self._server.start()
        if self._probes is not None:
            await self._probes.start()
        self._keepers = [asyncio.create_task(self._follow()), asyncio.create_task(self._keep_open())]

    async def _keep_open(self) -> None:
        """Open again when grpc.aio's own loop has ended, which without `accepting` a method name can do."""
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
            log.info("the gRPC server is open again", port=self.port)

    async def shut(self) -> None:
        """Say NOT_SERVING from now on. Calls are still heard: the catalog refuses them."""
        for keeper in self._keepers:
            keeper.cancel()
        self._draining.begin()
        await self._health.enter_graceful_shutdown()

    async def flush(self, over: float) -> None:
        """Let what was answered reach its callers, until then at most, time.monotonic()."""
        await self._draining.heard(over)
        self._refusals.tell()

    def _note(self, keys: Iterable[Key]) -> None:
        self._changed.update(keys)
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, set()
            await self._tell_health(changed)

    async def _tell_health(self, keys: Collection[Key]) -> None:
        """Tell what has changed about these versions, and so about their models; of one that is gone, that it does not
        serve. Whatever their number, calls have their turn in between.
        """
        for name, version in keys:
            model = self._catalog.shown((name, version))
            await self._say(f"{name}/{version}", model is not None and model.healthy)
        for name in {name for name, _ in keys}:
            await self._say(name, any(model.healthy for model in self._catalog.serving(name)))

    async def _say(self, name: str, healthy: bool) -> None:
        status = SERVING if healthy else NOT_SERVING
        if self._told.get(name) != status:
            await self._health.set(name, status)
            self._told[name] = status
            await asyncio.sleep(0)
