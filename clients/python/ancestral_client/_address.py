"""Where a server is: HOST:PORT, or a target of gRPC such as dns:///replicas:8500. Pure."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]/]+)\]|(?P<host>[^:/\[\]]+)):(?P<port>[0-9]{1,5})")


def hosts(address: str) -> list[str]:
    """The hosts that an address names. ValueError as from `endpoints`."""
    scheme, _, rest = address.partition(":")
    match scheme:
        case "unix" | "unix-abstract" if rest:
            return ["localhost"]
        case "vsock" | "xds" if rest:
            return [rest]
    return [host for host, _ in endpoints(address)]


def endpoints(address: str) -> list[tuple[str, int]]:
    """Hosts and ports that an address names; none where it leads to no port. ValueError if gRPC could not look for it,
    or would look elsewhere: to it port 99999 is 34463, and http://localhost:8500 the name of a host.
    """
    scheme, _, rest = address.partition(":")
    # dns:HOST:PORT, dns:///HOST:PORT or dns://RESOLVER/HOST:PORT
    path = unquote(re.sub(r"^//[^/]*", "", rest).lstrip("/"))
    match scheme:
        case "unix" | "unix-abstract" | "vsock" | "xds" if rest:
            return []
        case "ipv4" | "ipv6":
            found = [_endpoint(part) for part in path.split(",")]
            if {_ip(host).version for host, _ in found} != {int(scheme[-1])}:
                raise ValueError(address)
            return found
        case "dns":
            return [_endpoint(path if ":" in path.rpartition("]")[2] else f"{path}:443")]  # as gRPC takes it
    return [_endpoint(address)]


def on_this_machine(address: str) -> bool:
    """Whether it is reached without a network, and so without a proxy; of several hosts all."""
    return all(map(_is_loopback, hosts(address)))


def _endpoint(text: str) -> tuple[str, int]:
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or not text.isprintable() or " " in text or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(text)
    if found["ipv6"] and _ip(found["ipv6"]).version != 6:
        raise ValueError(text)
    return found["ipv6"] or found["host"], int(found["port"])


def _ip(host: str) -> IPv4Address | IPv6Address:
    """ValueError if it is a name. Which interface it belongs to may stand as in a URI: fe80::1%25eth0."""
    return ip_address(host.replace("%25", "%", 1))


def _is_loopback(host: str) -> bool:
    """Also 0.0.0.0 and ::, which servers print who listen everywhere."""
    try:
        ip = _ip(host)
    except ValueError:
        return host.lower().rstrip(".").rpartition(".")[2] == "localhost"
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    return ip.is_loopback or ip.is_unspecified
