"""Where to listen and whom to tell: one reading of a host for both ports, of a collector's URL, and one way to write an
address.
"""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv6Address, ip_address

# An IPv6 address may say on which interface it is, by name or by number: fe80::1%eth0. It means something only for one
# that is local to a link.
_ZONE = re.compile(r"([^%]+)%(?:25)?([^%\s/\[\]]+)")
_NAME = re.compile(r"[\w.-]+")
_COLLECTOR = re.compile(r"(?:(https?)://)?(\[[^\]]*\]|[^:/@?#\[\]]*)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
# The port of a collector that is given without one: OTLP's own, over gRPC.
OTLP_PORT = 4317


def host_of(text: str) -> str:
    """A host as it was given, in the form that the system's own calls take: an IPv6 address without brackets.

    ValueError if it is neither an address nor a name, as where it holds a port.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address, zone = found.groups() if (found := _ZONE.fullmatch(bare)) else (bare, "")
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        if bare == text and _is_name(text):
            return text
        raise ValueError(
            "must be an address or a name to listen on, without a port: 127.0.0.1, ::1, fe80::1%eth0, localhost"
        ) from None
    if not parsed.is_link_local:
        return address
    if not zone:
        raise ValueError(f"is local to a link, so it must say on which interface: {address}%eth0")
    try:
        # gRPC knows interfaces by name only.
        name = socket.if_indextoname(int(zone)) if zone.isdecimal() else zone
        socket.if_nametoindex(name)
    except (OSError, OverflowError):
        raise ValueError(f"there is no network interface {zone} here") from None
    return f"{address}%{name}"


def _is_name(text: str) -> bool:
    """Whether resolvers may know it; IPv4 too."""
    try:
        return _NAME.fullmatch(text) is not None and bool(text.encode("idna"))
    except UnicodeError:  # an empty label, or one that is too long
        return False


def collector_of(text: str) -> str:
    """The URL of an OpenTelemetry collector, with its port; HOST:PORT alone is without TLS, and nothing stays nothing.

    ValueError if it is none.
    """
    if not text:
        return ""
    found = _COLLECTOR.fullmatch(text)
    try:
        host, port = host_of(found[2] if found else ""), int((found and found[3]) or OTLP_PORT)
    except ValueError:
        host, port = "", 0
    if not found or not 0 < port <= 65535:
        raise ValueError(
            f"must be where a collector takes OTLP over gRPC: http://HOST:{OTLP_PORT}, or https:// where it has TLS"
        )
    return f"{(found[1] or 'http').lower()}://{joined(host, port)}"


def joined(host: str, port: int) -> str:
    """HOST:PORT as clients take it; `host` as `host_of` gives it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def only_here(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone; not, where nobody knows the name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    addresses = [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in addresses)


def bound(host: str, port: int, option: int = socket.SO_REUSEADDR) -> socket.socket:
    """A TCP socket that has the port, a free one for 0, and does not listen yet; of a name's addresses at the first.

    option: SO_REUSEADDR to be alone there, SO_REUSEPORT to have it beside others. OSError if it cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, option, 1)
        taken.bind(address)
    except OSError:
        taken.close()
        raise
    return taken
