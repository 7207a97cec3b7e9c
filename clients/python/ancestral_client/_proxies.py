"""Which proxy gRPC goes by, as its own rules have it; those of an operating system or a browser have no part in it.

https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ancestral_client import _address

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""The variables by which gRPC finds a proxy; the first that is set counts. In small letters only."""
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


class Proxy(NamedTuple):
    variable: str
    host: str
    port: int
    login: str = ""
    """USER:PASSWORD, where the variable has it."""


def proxy_of(address: str, host: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy by which a host of an address is reached; None for straight on."""
    if _address.on_this_machine(address):
        return None  # the client's own rule
    variable = next((name for name in VARIABLES if environment.get(name)), None)
    if variable is None or _is_excepted(host, environment):
        return None
    url = urlsplit(environment[variable])
    try:
        port = url.port or 80
    except ValueError:
        return None
    if url.scheme != "http" or not url.hostname:
        return None  # gRPC goes straight on, then
    return Proxy(variable, url.hostname, port, unquote(url.netloc.rpartition("@")[0]))


def _is_excepted(host: str, environment: Mapping[str, str]) -> bool:
    text = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    return any(_covers(entry.strip().lower(), host.lower()) for entry in text.split(",") if entry.strip())


def _covers(entry: str, host: str) -> bool:
    """Whether an exception, the end of a name or a network, covers a host."""
    if host.endswith(entry):
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False
