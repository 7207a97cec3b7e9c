"""Who may connect, and how: what makes the server's ports."""

from __future__ import annotations

from typing import Protocol

import grpc


class Credentials(Protocol):
    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Have a server listen on HOST:PORT; its port, which is another one where that is 0. RuntimeError if it cannot
        listen there.
        """


class Insecure:
    """Anybody, in plain text: for a network that lets in only whom it trusts."""

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        return server.add_insecure_port(address)
