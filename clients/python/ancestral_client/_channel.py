"""The channel: message limits, balancing, keepalive."""

from __future__ import annotations

from typing import Any

from ancestral_client import _address

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message both ways: the server's default. gRPC's own 4 MiB is 5,000 images of 28x28."""

# Without a retry policy: see _attempts.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def options(address: str, max_message_bytes: int) -> list[tuple[str, Any]]:
    """The options of a channel to `address`, one that `_checks.address_of` has passed."""
    return [
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
