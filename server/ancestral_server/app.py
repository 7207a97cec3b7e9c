"""The composition root: build in order, serve until a signal, stop in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import structlog

from ancestral_server.access import Access
from ancestral_server.addresses import joined
from ancestral_server.catalog import Catalog, Watcher
from ancestral_server.cpus import usable_cpus
from ancestral_server.ending import STUCK_SECONDS, Ending
from ancestral_server.endpoint import Endpoint
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import DeviceLost, StartupError
from ancestral_server.logs import announce
from ancestral_server.metrics import Gpus, Metrics
from ancestral_server.rpc import credentials
from ancestral_server.rpc.door import Door
from ancestral_server.rpc.roles import RoleMaker
from ancestral_server.rpc.server import GrpcServer
from ancestral_server.runtime import memory
from ancestral_server.runtime.kernels.driver import uuid_of
from ancestral_server.runtime.session import runtimes
from ancestral_server.settings import Settings

if TYPE_CHECKING:
    from ancestral_server.rpc.tracing import Tracing

log = structlog.get_logger()

# How often to look how late the event loop is.
LAG_SECONDS = 0.25
# Connections, to begin with: 1,024 file descriptors, the usual bound, are soon taken by callers that stay.
OPEN_FILES = 65_536
# OpenTelemetry's own variable to switch all of it off.
NO_SDK = "OTEL_SDK_DISABLED"
# The exit code of a server that has lost its GPU: whoever looks after it starts it again, unlike after 1 and 2.
DEVICE_LOST = 3


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, or until the GPU is lost; a second signal ends the process. The exit code.
    StartupError if it cannot start as asked.

    On return every call that was let in has its answer, while the sockets are still open: see `__main__`.
    """
    stop: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.done():
            os._exit(128 + number)
        log.info("stopping", signal=number.name, drain_seconds=settings.drain_seconds)
        ending = Ending.begin(time.monotonic(), settings.drain_seconds)
        _end_at(ending.over + STUCK_SECONDS)
        stop.set_result(ending)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)

    memory.keep_little(settings.threads)
    _allow_many_files()
    metrics = Metrics(metadata.version("ancestral"))
    access = Access(settings, lambda what, fit: _access_changed(metrics, access, what, fit=fit))
    _show_certificate(metrics, access)
    if not settings.share_port:  # of several processes the one that starts them has said it
        for remark in access.remarks():
            log.warning(remark)
    devices = runtimes(settings.device, settings.threads, run_seconds=settings.load_seconds)
    device = ",".join(each.device for each in devices)
    if len(kinds := {str(each.opened) for each in devices}) > 1:
        log.warning("the GPUs differ: whichever paints a seed's image may change its last bits", gpus=sorted(kinds))
    lost: list[DeviceLost] = []

    def on_lost(error: DeviceLost) -> None:
        lost.append(error)
        if not stop.done():
            log.error("stopping", reason=str(error))
            # What runs there has no answer, however long it is waited for.
            ending = Ending.begin(time.monotonic(), 0)
            _end_at(ending.over + STUCK_SECONDS, DEVICE_LOST)
            stop.set_result(ending)

    def on_any_thread(error: DeviceLost) -> None:
        loop.call_soon_threadsafe(on_lost, error)

    for each in devices:
        each.on_lost = on_any_thread
    metrics.machine.runs_on(device=device, threads=settings.threads, cpus=usable_cpus(), memory_bytes=memory.total())
    if gpus := {each.gpu: partial(uuid_of, each.gpu, each.library) for each in devices if each.gpu is not None}:
        metrics.machine.gpus(Gpus(gpus).read)
    arrivals = Arrivals()
    catalog = Catalog(settings, devices[0], metrics, arrivals, RoleMaker(settings), devices[1:])
    tracing = _tracing(settings, metrics)
    # The server first: a port in use should be said before models are loaded for a minute. It answers only when open.
    door = None if access.is_open else Door(access, metrics)
    server = GrpcServer(catalog, metrics, arrivals, settings, credentials.of(access), door=door, some=tracing)
    endpoint = _metrics_endpoint(metrics, settings, access)
    watching = [loop.create_task(_watch_lag(metrics)), loop.create_task(access.watch())]
    try:
        if await _unless(stop, Watcher(catalog, settings).start()):
            await server.open()
            address, metrics_address = joined(settings.host, server.port), joined(settings.host, endpoint.port)
            log.info("serving", address=address, metrics=metrics_address, device=device)
            health = "" if server.health_port is None else f" (health on {joined(settings.host, server.health_port)})"
            announce(settings.log_format, f"listening on {address}, metrics on {metrics_address}{health}")
        ending = await stop
        await server.shut()
        await catalog.drain(ending.work_left(time.monotonic()), ending.words)
        await server.flush(ending.over)
        if tracing:
            await asyncio.to_thread(tracing.close, max(0.0, ending.over - time.monotonic()))
    finally:
        for task in watching:
            task.cancel()
        endpoint.close()
    log.info("stopped")
    return DEVICE_LOST if lost else 0


def _allow_many_files() -> None:
    """Raise the process's own bound on open files, as far as its system lets it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS may refuse what it says is allowed.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _watch_lag(metrics: Metrics) -> None:
    """Note how late the event loop wakes who sleeps; its timers themselves are right to a millisecond."""
    while True:
        due = time.monotonic() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        metrics.loop_lag.observe(max(0.0, time.monotonic() - due))


async def _unless(stop: asyncio.Future[Any], work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done before `stop` was. If not it goes on, and nobody waits for it."""
    working = asyncio.ensure_future(work)
    await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        return False
    working.result()
    return True


def _end_at(when: float, code: int = 1) -> None:
    """End the process then, time.monotonic() seconds, if it is still there: something holds the event loop."""

    def end() -> None:
        log.error("the end took too long, and is broken off")
        os._exit(code)

    # --drain-seconds may be more than a thread can wait, 292 years.
    last = threading.Timer(min(when - time.monotonic(), threading.TIMEOUT_MAX), end)
    last.daemon = True
    last.start()


def _tracing(settings: Settings, metrics: Metrics) -> Tracing | None:
    """What records traces, if anything does; else nothing of OpenTelemetry is imported."""
    if not settings.otlp_endpoint:
        return None
    if os.environ.get(NO_SDK, "").strip().lower() == "true":
        log.warning(f"nothing is traced, since {NO_SDK} is true", otlp_endpoint=settings.otlp_endpoint)
        return None
    from ancestral_server.rpc.collector import Collector
    from ancestral_server.rpc.tracing import Tracing

    try:
        collector = Collector(settings.otlp_endpoint, metadata.version("ancestral"), metrics)
    except Exception as error:
        # OpenTelemetry's own variables.
        raise StartupError(f"--otlp-endpoint {settings.otlp_endpoint}: cannot send spans there: {error}") from error
    return Tracing(collector, settings.trace_ratio, metrics)


def _show_certificate(metrics: Metrics, access: Access) -> None:
    metrics.access.certificate_expires(0 if access.certificates is None else access.certificates.expires)


def _access_changed(metrics: Metrics, access: Access, what: str, *, fit: bool) -> None:
    metrics.access.reloaded(what, fit=fit)
    _show_certificate(metrics, access)


def _metrics_endpoint(metrics: Metrics, settings: Settings, access: Access) -> Endpoint:
    def tls() -> ssl.SSLContext | None:
        return access.certificates.context if settings.metrics_tls and access.certificates is not None else None

    try:
        return metrics.serve(settings.host, settings.metrics_port, tls, access.let_observe)
    except OSError as error:
        raise StartupError(
            f"cannot serve metrics on {joined(settings.host, settings.metrics_port)}: {error.strerror}; "
            "choose another with --metrics-port or --host"
        ) from error
