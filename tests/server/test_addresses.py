from __future__ import annotations

import socket

import pytest

from ancestral_server.addresses import bound, collector_of, host_of, joined
from running import HAS_IPV6

LOOPBACK = socket.if_indextoname(1)


@pytest.mark.parametrize(
    ("given", "host", "address"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8500"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0:8500"),
        ("localhost", "localhost", "localhost:8500"),
        ("my_host.example", "my_host.example", "my_host.example:8500"),
        ("::1", "::1", "[::1]:8500"),
        ("[::1]", "::1", "[::1]:8500"),
        ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1", "[0:0:0:0:0:0:0:1]:8500"),
        ("::", "::", "[::]:8500"),
        ("[::]", "::", "[::]:8500"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]:8500"),
        ("[::FFFF:127.0.0.1]", "::FFFF:127.0.0.1", "[::FFFF:127.0.0.1]:8500"),
        (f"fe80::1%{LOOPBACK}", f"fe80::1%{LOOPBACK}", f"[fe80::1%{LOOPBACK}]:8500"),
        (f"[fe80::1%{LOOPBACK}]", f"fe80::1%{LOOPBACK}", f"[fe80::1%{LOOPBACK}]:8500"),
        # By number, as in a URI, and where an interface means nothing.
        ("fe80::1%1", f"fe80::1%{LOOPBACK}", f"[fe80::1%{LOOPBACK}]:8500"),
        (f"[fe80::1%25{LOOPBACK}]", f"fe80::1%{LOOPBACK}", f"[fe80::1%{LOOPBACK}]:8500"),
        (f"::1%{LOOPBACK}", "::1", "[::1]:8500"),
    ],
)
def test_every_form_of_a_host(given: str, host: str, address: str) -> None:
    assert host_of(given) == host
    assert joined(host, 8500) == address
    assert host_of(host) == host


@pytest.mark.parametrize(
    ("given", "says"),
    [
        *(
            (text, "must be an address or a name to listen on, without a port")
            for text in ("", " ", "[::1", "::1]", "[::1]:8500", "localhost:8500", "[localhost]", "http://localhost")
        ),
        *((text, "must be an address or a name") for text in ("1::2::3", "a b", "a..b", "x" * 64, "unix:/tmp/s")),
        ("fe80::1%nope", "there is no network interface nope"),
        ("fe80::1%99999999999", "there is no network interface 99999999999"),
        ("fe80::1", "fe80::1%eth0"),
    ],
)
def test_what_is_no_host(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        host_of(given)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("", ""),
        ("http://localhost:4317", "http://localhost:4317"),
        ("HTTPS://collector.example/", "https://collector.example:4317"),
        ("collector", "http://collector:4317"),
        ("10.0.0.7:14317", "http://10.0.0.7:14317"),
        ("http://[::1]:4317", "http://[::1]:4317"),
    ],
)
def test_every_form_of_a_collector(given: str, url: str) -> None:
    assert collector_of(given) == url
    assert collector_of(url) == url


@pytest.mark.parametrize(
    "given",
    [
        *(
            " ",
            "http://",
            ":4317",
            "grpc://localhost:4317",
            "http://localhost:4318/v1/traces",
            "http://me:secret@localhost",
        ),
        *(
            "localhost:0",
            "localhost:65536",
            "localhost:port",
            "http://a b",
            "http://[::1",
            "::1",
            "unix:/tmp/s",
            "x?y",
            "x#y",
        ),
    ],
)
def test_what_is_no_collector(given: str) -> None:
    with pytest.raises(ValueError, match="must be where a collector takes OTLP over gRPC: http://HOST:4317"):
        collector_of(given)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *(["::1", "::ffff:127.0.0.1"] if HAS_IPV6 else [])])
def test_a_port_is_taken_alone_or_beside_others(host: str) -> None:
    with bound(host, 0) as alone:
        port = alone.getsockname()[1]
        alone.listen()
        with pytest.raises(OSError, match="in use"):
            bound(host, port)
    with bound(host, 0, socket.SO_REUSEPORT) as one:
        port = one.getsockname()[1]
        one.listen()
        with bound(host, port, socket.SO_REUSEPORT) as other:
            other.listen()
