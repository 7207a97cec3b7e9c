"""What is on the other side of a port: bare sockets, by which a fault shows that gRPC sums up as UNAVAILABLE."""

from __future__ import annotations

import os
import pkgutil
import re
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ancestral_client._access import File
from ancestral_client._proxies import Proxy

Speaks = Literal["grpc", "http", ""]
# What a client of HTTP/2 begins with: the preface, and settings without any.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
# Of a frame of HTTP/2: 3 bytes of length, then its kind. A server begins with its settings.
_KIND, _SETTINGS = 3, 4
# Of the two times in a certificate, the first in it; whatever else stands before them is no time.
_TIMES = re.compile(rb"\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z")


class Unreachable(Exception):
    """There is no connection; `fault` says whose doing that is."""

    def __init__(self, fault: Literal["name", "port", "proxy"], said: str) -> None:
        super().__init__(said)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server should be, and how it is reached."""

    host: str
    port: int
    proxy: Proxy | None
    seconds: float
    """How long each step may take."""

    def connect(self) -> socket.socket:
        """A connection to it, perhaps through the proxy. Unreachable says why there is none."""
        if self.proxy is None:
            # As in a URI, where the name of an interface may stand.
            return _connected(self.host.replace("%25", "%"), self.port, self.seconds, "port")
        connection = _connected(self.proxy.host, self.proxy.port, self.seconds, "proxy")
        try:
            answer = self._tunnel(connection)
        except OSError as error:
            connection.close()
            raise Unreachable("proxy", f"it does not answer ({error})") from None
        if answer.split(" ")[1:2] != ["200"]:
            connection.close()
            raise Unreachable("proxy", f"it answered: {answer or 'nothing'}")
        return connection

    def _tunnel(self, connection: socket.socket) -> str:
        """The first line of what the proxy answers to CONNECT."""
        target, login = f"{self.host}:{self.port}", "" if self.proxy is None else self.proxy.login
        known = f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}\r\n" if login else ""
        asked = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{known}\r\n"
        connection.sendall(asked.encode("ascii", "replace"))
        answer = b""
        while b"\r\n\r\n" not in answer and (more := connection.recv(1)):
            answer += more  # byte by byte: what follows is no more the proxy's
        return answer.partition(b"\r\n")[0].decode(errors="replace")


def _connected(host: str, port: int, seconds: float, fault: Literal["port", "proxy"]) -> socket.socket:
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except socket.gaierror as error:
        raise Unreachable("name" if fault == "port" else fault, f"{host}: {error.strerror}") from None
    except UnicodeError:
        raise Unreachable("name" if fault == "port" else fault, f"{host}: no name of a host") from None
    except ConnectionRefusedError:
        raise Unreachable(fault, f"nothing listens on port {port} of {host}") from None
    except TimeoutError:
        raise Unreachable(fault, f"port {port} of {host} does not answer within {seconds:g} s") from None
    except OSError as error:
        raise Unreachable(fault, f"port {port} of {host} cannot be reached: {error.strerror or error}") from None
    connection.settimeout(seconds)
    return connection


def speaks(place: Place) -> Speaks:
    """What a port speaks without TLS; "" for neither of them. Unreachable if it is gone."""
    with place.connect() as connection:
        try:
            connection.sendall(_PREFACE)
            answer = connection.recv(64)
        except OSError:
            return ""
    if answer[_KIND : _KIND + 1] == bytes([_SETTINGS]):
        return "grpc"
    return "http" if answer.startswith(b"HTTP/") else ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a server shows; `begins` and `ends` are None where that cannot be read."""

    der: bytes
    other_protocol: bool = False
    """Whether what is spoken by TLS is no HTTP/2, and so no gRPC."""

    def _times(self) -> list[datetime]:
        found = [match.groups() for match in _TIMES.finditer(self.der)][:2]
        # Two digits of a year below 50 are of this century (RFC 5280).
        texts = [long or (b"20" if short < b"5" else b"19") + short for short, long in found]
        return [datetime.strptime(text.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC) for text in texts]

    @property
    def begins(self) -> datetime | None:
        return next(iter(self._times()), None)

    @property
    def ends(self) -> datetime | None:
        return next(iter(self._times()[1:]), None)


def certificate_of(place: Place) -> Certificate | None:
    """The certificate that a port shows, whether or not it is good; None if the port speaks no TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with place.connect() as connection:
        try:
            with context.wrap_socket(connection, server_hostname=place.host) as secure:
                der, protocol = secure.getpeercert(binary_form=True), secure.selected_alpn_protocol()
                return Certificate(der or b"", other_protocol=protocol != "h2")
        except ssl.SSLError as error:
            # An alert is TLS, too: it wants a certificate, or what else it has against this client.
            return Certificate(b"") if "ALERT" in (error.reason or "") else None
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Identity:
    """Files by which a client knows a server, and is known to it; None: those of the system, or none."""

    ca: File | None = None
    certificate: File | None = None
    key: File | None = None
    server_name: str | None = None


def _usual_authorities() -> str | None:
    """The certificates that gRPC trusts where it is given none; None for those of the system."""
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    brought = pkgutil.get_data("grpc._cython", "_credentials/roots.pem")
    return None if brought is None else brought.decode()


def handshake(place: Place, identity: Identity) -> ssl.SSLError | None:
    """What is wrong with TLS as a client does it, which believes only who is known to it; None if all is well."""
    context = ssl.create_default_context(cafile=identity.ca, cadata=None if identity.ca else _usual_authorities())
    context.set_alpn_protocols(["h2"])
    if identity.certificate is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    with place.connect() as connection:
        try:
            with context.wrap_socket(connection, server_hostname=identity.server_name or place.host) as secure:
                # Of TLS 1.3 a server's refusal of the client comes after the handshake, in place of its settings.
                secure.sendall(_PREFACE)
                if not secure.recv(1):
                    return ssl.SSLError("ends the connection after the handshake")
        except ssl.SSLError as error:
            return error
        except OSError as error:
            return ssl.SSLError(str(error))
    return None
