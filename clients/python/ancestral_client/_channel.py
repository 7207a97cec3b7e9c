"""The channel: message limits, balancing, keepalive, proxies, compression; in plain text or by TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from ancestral_client import _address
from ancestral_client._access import Entry
from ancestral_client._arguments import Compression

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message both ways: the server's default. gRPC's own 4 MiB is 5,000 images of 28x28."""

# Without a retry policy: see _attempts.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


@dataclass(frozen=True, slots=True)
class Way:
    """Where a channel leads, and how; values that `_arguments` has passed."""

    address: str
    max_message_bytes: int = MAX_MESSAGE_BYTES
    proxy: str | None = None
    """http://HOST:PORT; "" for none, None for what the environment says."""
    compression: Compression = "none"


def blocking(way: Way, entry: Entry) -> grpc.Channel:
    """A channel of threads."""
    options = _options(way, entry)
    if entry.credentials is None:
        return grpc.insecure_channel(way.address, options=options)
    return grpc.secure_channel(way.address, entry.credentials, options=options)


def asynchronous(way: Way, entry: Entry) -> grpc.aio.Channel:
    """The same for the event loop that runs."""
    options = _options(way, entry)
    if entry.credentials is None:
        return grpc.aio.insecure_channel(way.address, options=options)
    return grpc.aio.secure_channel(way.address, entry.credentials, options=options)


def _options(way: Way, entry: Entry) -> list[tuple[str, Any]]:
    # gRPC would ask the proxy of http_proxy for what runs on this machine, too.
    by_proxy = not _address.on_this_machine(way.address) if way.proxy is None else bool(way.proxy)
    return [
        *entry.options,
        *([("grpc.http_proxy", way.proxy)] if way.proxy else []),
        ("grpc.enable_http_proxy", int(by_proxy)),
        ("grpc.default_compression_algorithm", int(_COMPRESSIONS[way.compression])),
        ("grpc.max_send_message_length", way.max_message_bytes),
        ("grpc.max_receive_message_length", way.max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        # A peer that vanished is noticed although no packet says so. Servers close a connection that is pinged more
        # often than every 5 minutes, and only calls in flight need it.
        ("grpc.keepalive_time_ms", 310_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # After a refused connection try again soon: servers restart within seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
