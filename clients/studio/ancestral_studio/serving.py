"""Serves the page."""

from __future__ import annotations

import signal
import socket

import uvicorn
from fastapi import FastAPI
from nicegui import app, ui

from ancestral_client import AsyncClient
from ancestral_studio.page import Page

# Four pixels, the last not painted yet.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#3565a8" d="M0 0h4v4H0z"/>'
    '<path fill="#7ba6e0" d="M4 0h4v4H4zM0 4h4v4H0z"/><path fill="none" stroke="#7ba6e0" d="M4.5 4.5h3v3h-3z"/></svg>'
)
# Seconds for which open pages may hold up the end of the process.
_GRACE_SECONDS = 2


def serve(client: AsyncClient, listening: socket.socket) -> None:
    """Serves the page to whoever connects, until SIGINT or SIGTERM; its calls go by way of `client`."""

    @ui.page("/")
    def index() -> None:
        Page(client)

    api = FastAPI(openapi_url=None)
    # None: light or dark as the visitor's system has it.
    ui.run_with(api, title="Ancestral studio", favicon=_ICON, dark=None, language="en-US", show_welcome_message=False)
    app.on_shutdown(client.close)
    config = uvicorn.Config(api, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
    server = uvicorn.Server(config)

    def end(*_: object) -> None:
        """Before uvicorn listens to signals itself; afterwards it raises again what it ended by, and that is all."""
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    server.run(sockets=[listening])
