"""Where a server may be, and how it is reached beside a proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ancestral_client import Client, InvalidArgument, Unavailable
from ancestral_client._address import hosts, on_this_machine
from running import ServerProcess

Run = Callable[..., Any]  # the fixture of conftest.py

WRONG = [
    "",
    " ",
    "localhost",
    "localhost:",
    "localhost:http",
    "localhost:0",
    "localhost:65536",
    "localhost:99999",
    "localhost:８５００",
    "localhost:8500 ",
    " localhost:8500",
    "local host:8500",
    "localhost:8500\n",
    "local\0host:8500",
    "local\udcffhost:8500",
    ":8500",
    "http://localhost:8500",
    "tcp://10.0.0.7:8500",
    "a/b:1",
    "::1",
    "::1:8500",
    "[::1]",
    "[::1]8500",
    "[localhost]:8500",
    "[127.0.0.1]:8500",
    "[::1::2]:8500",
    "dns:",
    "dns:///",
    "dns:///localhost:99999",
    "ipv4:",
    "ipv4:localhost:8500",
    "ipv4:[::1]:8500",
    "ipv4:127.0.0.1:1,127.0.0.2",
    "ipv6:::1",
    "ipv6:127.0.0.1:8500",
    "unix:",
]


@pytest.mark.parametrize("address", WRONG)
def test_what_is_no_address_is_refused_at_once_by_the_class_and_by_the_command(run: Run, address: str) -> None:
    problem = f"is {address!r}; must be HOST:PORT with a port of 1 to 65535, as localhost:8500 or [::1]:8500"
    with pytest.raises(InvalidArgument) as caught:
        Client(address)
    assert str(caught.value) == f"address: {problem}"
    assert [violation.field for violation in caught.value.violations] == ["address"]
    for arguments in (("models", "--address", address), ("--address", address, "models")):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"ancestral: --address: {problem}\n"


@pytest.mark.parametrize("address", [None, 8500, b"localhost:8500", ("localhost", 8500)])
def test_what_is_no_text_is_refused_too(address: Any) -> None:
    with pytest.raises(InvalidArgument, match="address: is "):
        Client(address)


def test_the_variable_is_named_where_it_is_wrong_and_where_it_is_nearly_right(
    run: Run, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("models", address="tcp://10.0.0.7:8500")
    assert (done.returncode, done.stderr.partition(";")[0]) == (
        2,
        "ancestral: ANCESTRAL_ADDRESS: is 'tcp://10.0.0.7:8500'",
    )
    monkeypatch.setenv("ANCESTRAL_ADRESS", "localhost:1")
    done = run("models")
    assert done.returncode == 0
    assert done.stderr == "ancestral: ANCESTRAL_ADRESS is not read; did you mean ANCESTRAL_ADDRESS?\n"
    # Set to nothing it is not set.
    done = run("models", "--timeout", "1", address="")
    assert "ANCESTRAL_ADDRESS:" not in done.stderr


@pytest.mark.parametrize(
    ("address", "found", "here"),
    [
        ("localhost:8500", ["localhost"], True),
        ("LOCALHOST.:8500", ["LOCALHOST."], True),
        ("api.localhost:8500", ["api.localhost"], True),
        ("127.0.0.1:8500", ["127.0.0.1"], True),
        ("127.8.9.10:1", ["127.8.9.10"], True),
        ("0.0.0.0:8500", ["0.0.0.0"], True),
        ("[::1]:8500", ["::1"], True),
        ("[::]:8500", ["::"], True),
        ("[::ffff:127.0.0.1]:8500", ["::ffff:127.0.0.1"], True),
        ("unix:/run/ancestral server.sock", ["localhost"], True),
        ("dns:///localhost:8500", ["localhost"], True),
        ("dns:localhost", ["localhost"], True),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", ["127.0.0.1", "127.0.0.2"], True),
        ("ipv6:[::1]:8500", ["::1"], True),
        ("ipv6:%5B::1%5D:8500", ["::1"], True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", ["127.0.0.1", "10.0.0.1"], False),
        ("server:8500", ["server"], False),
        ("my_server.example.com:65535", ["my_server.example.com"], False),
        ("localhost.example.com:80", ["localhost.example.com"], False),
        ("10.0.0.1:8500", ["10.0.0.1"], False),
        ("[fe80::1%eth0]:8500", ["fe80::1%eth0"], False),
        ("[fe80::1%25eth0]:8500", ["fe80::1%25eth0"], False),
        ("[::ffff:10.0.0.1]:8500", ["::ffff:10.0.0.1"], False),
        ("dns:///replicas:8500", ["replicas"], False),
        ("dns://10.0.0.53/replicas:8500", ["replicas"], False),
        ("dns:///[::2]", ["::2"], False),
        ("xds:///replicas", ["///replicas"], False),
        ("vsock:2:8500", ["2:8500"], False),
    ],
)
def test_every_form_of_an_address(address: str, found: list[str], here: bool) -> None:
    assert hosts(address) == found
    assert on_this_machine(address) is here
    Client(address).close()


@contextmanager
def proxy(answer: bytes, target: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy of HTTP that gives every CONNECT this answer, and leads on to one target: its URL, and what was asked."""
    asked: list[bytes] = []
    ends: list[socket.socket] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # either end is gone
            return

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # it is over
                return
            ends.append(near)
            request = b""
            while b"\r\n\r\n" not in request and (data := near.recv(65536)):
                request += data
            asked.append(request.partition(b"\r\n")[0])
            near.sendall(answer)
            if target:
                host, _, port = target.rpartition(":")
                far = socket.create_connection((host, int(port)))
                ends.append(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()
            else:
                near.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for end in ends:
                end.close()


VARIABLES = ["grpc_proxy", "https_proxy", "http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_what_runs_on_this_machine_is_asked_without_the_proxy(
    toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    port = toy_server.address.rpartition(":")[2]
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for host in ("127.0.0.1", "localhost", "dns:///localhost", "ipv4:127.0.0.1"):
        with Client(f"{host}:{port}", timeout=30) as client:
            assert [model.name for model in client.models()] == ["tally"]


def test_other_hosts_are_asked_by_way_of_the_proxy(toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(b"HTTP/1.1 200 OK\r\n\r\n", toy_server.address) as (url, asked):
        monkeypatch.setenv("http_proxy", url)
        with Client("no-such-host.invalid:8500", timeout=30) as client:
            assert [model.name for model in client.models()] == ["tally"]
    assert asked[0] == b"CONNECT no-such-host.invalid:8500 HTTP/1.1"


def test_a_proxy_that_refuses_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (url, _):
        monkeypatch.setenv("https_proxy", url)
        with Client("no-such-host.invalid:8500", timeout=30) as client, pytest.raises(Unavailable) as caught:
            client.models()
    assert not caught.value.connected
    assert str(caught.value).startswith("no connection to no-such-host.invalid:8500 (")
    assert url.removeprefix("http://") in str(caught.value)
    assert "403" in str(caught.value)
    assert "https_proxy is set" in str(caught.value)
    assert "no_proxy" in str(caught.value)


def test_the_last_words_of_grpc_are_part_of_the_error() -> None:
    with Client("no-such-host.invalid:8500", timeout=30) as client, pytest.raises(Unavailable) as caught:
        client.models()
    assert str(caught.value).startswith("no connection to no-such-host.invalid:8500 (")
    assert "resol" in str(caught.value)
    assert "make serve" not in str(caught.value)


def test_a_socket_in_a_folder_that_nobody_serves() -> None:
    with Client("unix:/tmp/no such socket", timeout=30) as client, pytest.raises(Unavailable) as caught:
        client.models()
    assert not caught.value.connected
    assert str(caught.value) == "nothing listens at unix:/tmp/no such socket; start a server with: make serve"
