"""The composition root: build in order, serve until a signal, stop in reverse."""

from __future__ import annotations

import asyncio
import gc
import signal

import structlog

from ancestral_server import __version__
from ancestral_server.catalog import Catalog
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import StartupError
from ancestral_server.metrics import Endpoint, Metrics
from ancestral_server.rpc.server import Door
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. StartupError if it cannot start as asked."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        log.info("stopping", signal=number.name, drain_seconds=settings.drain_seconds)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)

    metrics = Metrics(__version__)
    runtime = Runtime(settings.device, settings.threads)
    arrivals = Arrivals()
    catalog = Catalog(settings, runtime, metrics, arrivals)
    try:
        # The door first: a port in use should be said before models are loaded for a minute. It answers only when open.
        door = Door(catalog, metrics, arrivals, settings)
        endpoint = _metrics_endpoint(metrics, settings)
        try:
            # Off the event loop, so that signals are heard meanwhile.
            await asyncio.to_thread(catalog.load)
            # What lives as long as the server need not be looked at by each collection of garbage.
            gc.collect()
            gc.freeze()
            if not stop.is_set():
                await door.open()
                log.info(
                    "serving",
                    address=f"{settings.host}:{door.port}",
                    metrics=f"{settings.host}:{endpoint.port}",
                    device=runtime.device,
                )
                print(
                    f"listening on {settings.host}:{door.port}, metrics on {settings.host}:{endpoint.port}", flush=True
                )
                await stop.wait()
            await door.close(settings.drain_seconds)
        finally:
            endpoint.close()
    finally:
        catalog.close()
    log.info("stopped")


def _metrics_endpoint(metrics: Metrics, settings: Settings) -> Endpoint:
    try:
        return metrics.serve(settings.host, settings.metrics_port)
    except OSError as error:
        raise StartupError(
            f"cannot serve metrics on {settings.host}:{settings.metrics_port}: {error.strerror}; "
            "choose another with --metrics-port"
        ) from error
