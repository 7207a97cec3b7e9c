"""Who may connect, and how: what makes the server's ports."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from ancestral_server.access import Access, Certificates


class Credentials(Protocol):
    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Have a server listen on HOST:PORT; its port, which is another one where that is 0. RuntimeError if it cannot
        listen there.
        """


class Insecure:
    """Anybody, in plain text: for a network that lets in only whom it trusts."""

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        return server.add_insecure_port(address)


class Tls:
    """TLS with the certificates as they are when somebody connects; connections that there are go on with theirs."""

    def __init__(self, access: Access, certificates: Certificates) -> None:
        self._access = access
        self._certificates = certificates
        # Kept: gRPC asks it at each handshake, on threads of its own.
        self._credentials: Any = grpc.dynamic_ssl_server_credentials(
            _configuration(certificates),
            self._renewed,
            # Certificates may be exchanged while the server runs; whether callers need one stays.
            require_client_authentication=certificates.client_ca is not None,
        )

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        return server.add_secure_port(address, self._credentials)

    def _renewed(self) -> Any:
        """What the next handshakes are made with; None: as before."""
        now = self._access.certificates
        if now is None or now is self._certificates:
            return None
        self._certificates = now
        return _configuration(now)


def of(access: Access) -> Credentials:
    """What the settings ask for."""
    return Insecure() if access.certificates is None else Tls(access, access.certificates)


def _configuration(certificates: Certificates) -> Any:
    pair = (certificates.key, certificates.cert)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)
