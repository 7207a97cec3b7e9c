"""The command `studio`: the page is a package of its own, which this one starts and knows nothing else of."""

from __future__ import annotations

import os
import socket
from importlib import import_module
from typing import Annotated

import typer

from ancestral.commands import naming_the_extra
from ancestral_client import _reaching as reaching
from ancestral_client import errors
from ancestral_client._options import Address

# Seconds until a call of the page has failed: people wait no longer.
_TIMEOUT = 30.0
# Seconds for which calls are tried again where the server is away: a restart is bridged, and a page does not hang.
_RETRY_SECONDS = 2.0
_MOST_PORT = 65535  # of TCP: 16 bits


def studio(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address that the page listens on; 0.0.0.0: whoever reaches this machine can use it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page; 0: a free one.")] = 8080,
    address: Address = None,
) -> None:
    """Serve a page that shows what the models do, for a browser, until Ctrl-C.

    It samples, completes images, classifies and scores drawings, and moves through latents, each as soon as it is asked
    for. It asks the server at --address, and loads nothing from elsewhere.
    """
    with naming_the_extra("ancestral studio", extra="studio"):
        serving = import_module("ancestral_studio.serving")
    client = reaching.async_client(context, address, _TIMEOUT, _RETRY_SECONDS)
    with _listening(host, port) as listening:
        shown_host = f"[{host}]" if ":" in host else host
        url = f"http://{shown_host}:{listening.getsockname()[1]}"
        print(f"studio listening on {url}, asks {client.address}; Ctrl-C stops it", flush=True)
        serving.serve(client, listening)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that browsers can connect to from now on; exit code 2 and one line where there is none to have."""
    if not 0 <= port <= _MOST_PORT:
        raise errors.invalid("--port", f"is {port}, must be 0 to {_MOST_PORT}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        field = "--host" if isinstance(error, socket.gaierror) else "--port"
        # Python says the address again.
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        problem = f"cannot listen on {host} port {port}: {why}; name another, or port 0 for a free one"
        raise errors.invalid(field, problem) from error
