"""The channel: message limits, balancing, keepalive; in plain text or by TLS."""

from __future__ import annotations

from typing import Any

import grpc

from ancestral_client import _address
from ancestral_client._access import Entry

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message both ways: the server's default. gRPC's own 4 MiB is 5,000 images of 28x28."""

# Without a retry policy: see _attempts.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def blocking(address: str, max_message_bytes: int, entry: Entry) -> grpc.Channel:
    """A channel to `address`, one that `_checks.address_of` has passed."""
    options = _options(address, max_message_bytes, entry)
    if entry.credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, entry.credentials, options=options)


def asynchronous(address: str, max_message_bytes: int, entry: Entry) -> grpc.aio.Channel:
    """The same for the event loop that runs."""
    options = _options(address, max_message_bytes, entry)
    if entry.credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, entry.credentials, options=options)


def _options(address: str, max_message_bytes: int, entry: Entry) -> list[tuple[str, Any]]:
    return [
        *entry.options,
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        # gRPC would ask the proxy of http_proxy for what runs on this machine, too.
        ("grpc.enable_http_proxy", int(not _address.on_this_machine(address))),
        # A peer that vanished is noticed although no packet says so. Servers close a connection that is pinged more
        # often than every 5 minutes, and only calls in flight need it.
        ("grpc.keepalive_time_ms", 310_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # After a refused connection try again soon: servers restart within seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
