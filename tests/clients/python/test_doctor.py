"""`ancestral doctor` names what is wrong, and what to do about it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

import toybundle
from ancestral.v1 import model_service_pb2
from ancestral_client import _diagnosis, _probes
from ancestral_client._access import Access
from ancestral_client._diagnosis import Asked, diagnose
from ancestral_client._faults import Finding
from ancestral_client._probes import Identity
from ancestral_client._proxies import proxy_of
from ancestral_server.access.callers import hashed
from fakeserver import FakeServer
from inference import open_inference_service_pb2 as oip
from pki import Authority, Pair
from running import ServerProcess

Run = Callable[..., Any]  # the fixture of conftest.py


def told(run: Run, *arguments: str, address: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and by check its first problem."""
    done = run("doctor", *arguments, "--json", address=address)
    report = json.loads(done.stdout)
    problems = [finding for finding in report["findings"] if finding["state"] == "problem"]
    assert report["healthy"] is (done.returncode == 0) is (not problems)
    assert all(finding["remedy"] for finding in problems)
    return done.returncode, {finding["check"]: finding for finding in reversed(problems)}


def test_a_healthy_server_has_no_problem(run: Run, toy_server: ServerProcess) -> None:
    done = run("doctor", "tally")
    assert done.returncode == 0, done.stdout
    checks = [line.split()[:2] for line in done.stdout.splitlines()]
    expected = ["port", "tls", "server", "clock", "version", "models", "message", "latency"]
    assert checks == [["ok", check] for check in expected]
    assert "\x1b" not in done.stdout
    assert told(run, address=toy_server.address) == (0, {})


def test_colours_heed_no_color(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # lets rich take the captured stdout for a terminal
    assert "\x1b[3" not in run("doctor").stdout
    monkeypatch.setenv("NO_COLOR", "")  # set to nothing it is not set
    assert "\x1b[32mok" in run("doctor").stdout


def test_a_wrong_port(run: Run, toy_server: ServerProcess) -> None:
    code, problems = told(run, address="127.0.0.1:1")
    assert (code, list(problems)) == (7, ["port"])
    assert problems["port"]["said"] == "nothing listens on port 1 of 127.0.0.1"
    assert "make serve" in problems["port"]["remedy"]
    metrics = toy_server.metrics_url.split("/")[2]
    code, problems = told(run, address=metrics)
    assert (code, list(problems)) == (7, ["port"])
    assert "perhaps it is the port of the metrics" in problems["port"]["said"]


def test_a_port_of_something_else(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def greet() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        code, problems = told(run, address=f"127.0.0.1:{listener.getsockname()[1]}")
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert code == 7
    assert "speaks no gRPC" in problems["port"]["said"]


def test_the_usual_port_is_proposed_where_something_answers_there(
    run: Run, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(toy_server.address.rpartition(":")[2])
    monkeypatch.setattr(_diagnosis, "_DEFAULT_PORT", port)
    _, problems = told(run, address="127.0.0.1:1")
    assert f"--address 127.0.0.1:{port}" in problems["port"]["remedy"]


def test_a_name_that_nobody_knows(run: Run) -> None:
    code, problems = told(run, address="no-such-host.invalid:8500")
    assert (code, list(problems)) == (7, ["name"])


def test_a_proxy_in_the_way(run: Run, monkeypatch: pytest.MonkeyPatch, toy_server: ServerProcess) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    code, problems = told(run, address="no-such-host.invalid:8500")
    assert (code, list(problems)) == (7, ["proxy"])
    assert "http_proxy sends no-such-host.invalid by way of 127.0.0.1:1" in problems["proxy"]["said"]
    assert "no_proxy=no-such-host.invalid" in problems["proxy"]["remedy"]
    # A server that is no proxy, but answers.
    monkeypatch.setenv("http_proxy", f"http://{toy_server.metrics_url.split('/')[2]}")
    _, problems = told(run, address="no-such-host.invalid:8500")
    assert "it answered: HTTP/1" in problems["proxy"]["said"]
    assert told(run, address=toy_server.address) == (0, {}), "what is on this machine needs no proxy"


@pytest.mark.parametrize(
    ("host", "variables", "found"),
    [
        ("a.example", {"http_proxy": "http://p:3128"}, ("http_proxy", "p", 3128, "")),
        ("a.example", {"http_proxy": "http://u:s%40@p"}, ("http_proxy", "p", 80, "u:s@")),
        ("a.example", {"http_proxy": "http://p", "grpc_proxy": "http://q:1"}, ("grpc_proxy", "q", 1, "")),
        ("a.example", {"http_proxy": "http://p", "no_proxy": "b.example, .example"}, None),
        ("a.example", {"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, ("http_proxy", "p", 80, "")),
        ("10.1.2.3", {"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, None),
        ("a.example", {"HTTP_PROXY": "http://p"}, None),
        ("a.example", {"http_proxy": "socks5://p"}, None),
        ("a.example", {"http_proxy": "http://p:port"}, None),
        ("127.0.0.1", {"http_proxy": "http://p"}, None),
    ],
)
def test_which_proxy_grpc_takes(host: str, variables: dict[str, str], found: Any) -> None:
    assert proxy_of(f"{host}:8500", host, variables) == found


def test_a_missing_model(run: Run, toy_server: ServerProcess, tmp_path: Path) -> None:
    code, problems = told(run, "talli", address=toy_server.address)
    assert (code, list(problems)) == (3, ["models"])
    assert problems["models"]["said"] == "there is no talli; there are tally"
    code, problems = told(run, "tally", "--version", "9", address=toy_server.address)
    assert (code, problems["models"]["said"]) == (3, "there is no tally version 9; there are tally")


def test_versions_that_are_refused_and_a_small_limit(run: Run, tmp_path: Path) -> None:
    models = tmp_path / "models"
    toybundle.write(models)
    toybundle.write(models, version=2, scale=3.0)  # answers otherwise than recorded
    with ServerProcess(models, "--max-message-mib", "1", "--poll-seconds", "0") as server:
        code, problems = told(run, "tally", address=server.address)
        assert (code, sorted(problems)) == (2, ["message limit", "models"])
        assert problems["models"]["said"].startswith("tally version 2 was refused: ")
        assert "ancestral load tally" in problems["models"]["remedy"]
        assert "at most 1 MiB, this client sends and takes 64 MiB" in problems["message limit"]["said"]
        assert "--max-message-mib 64" in problems["message limit"]["remedy"]
        # It names them for people, too.
        said = run("doctor", address=server.address).stdout
        assert "PROBLEM models" in said
        assert "→ mend or export it anew" in said
        run("unload", "tally", address=server.address)
        _, problems = told(run, "tally", address=server.address)
        assert "ancestral load tally" in problems["models"]["remedy"]


def test_a_server_without_models(run: Run, tmp_path: Path) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b""

    with fake(answer) as address:
        _, problems = told(run, address=address)
    assert "the server has no models" in problems["models"]["said"]


@contextmanager
def fake(answer: Callable[..., bytes], credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """A server that answers each call by `answer(request, context)`."""
    handler = FakeServer(answer=answer)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_an_old_server_a_clock_and_a_limit_in_between(run: Run, fake_server: FakeServer) -> None:
    """What a server of today does not do: tell an old version, another time, and take 4 MiB while it speaks of 64."""
    models = model_service_pb2.ListModelsResponse()
    models.models.add(name="m", version=1, state=model_service_pb2.MODEL_STATE_SERVING)
    models.models[0].limits.max_message_bytes = 64 * 2**20

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if fake_server.calls[-1] == "ServerMetadata":
            return oip.ServerMetadataResponse(name="ancestral", version="0.1.9").SerializeToString()
        context.set_trailing_metadata((("date", "Thu, 01 Jan 2026 00:00:00 GMT"),))
        return models.SerializeToString()

    fake_server.answer = answer
    code, problems = told(run, address=fake_server.address)
    assert sorted(problems) == ["clock", "message limit", "version"]
    assert code == problems["clock"]["code"]
    assert "the server is an old one, 0.1.9" in problems["version"]["said"]
    assert "'ancestral[client]==0.1.9'" in problems["version"]["remedy"]
    assert "ahead of the server's" in problems["clock"]["said"]
    assert "larger than max" in problems["message limit"]["said"]


def test_this_machines_clock(run: Run, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_diagnosis, "wall_clock", lambda: datetime.now(UTC) - timedelta(hours=3))
    code, problems = told(run, address=toy_server.address)
    assert (code, list(problems)) == (1, ["clock"])
    assert "this machine's clock is " in problems["clock"]["said"]
    assert "behind the server's" in problems["clock"]["said"]


@pytest.mark.parametrize(
    ("status", "check", "said"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "server", "knows no ancestral.v1.ModelService"),
        (grpc.StatusCode.UNAUTHENTICATED, "token", "it wants a token, none is given"),
        (grpc.StatusCode.PERMISSION_DENIED, "token", "who calls may not do that"),
        (grpc.StatusCode.INTERNAL, "server", "INTERNAL: x"),
    ],
)
def test_a_server_that_refuses_the_first_call(
    run: Run, fake_server: FakeServer, status: grpc.StatusCode, check: str, said: str
) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(status, "x")

    fake_server.answer = answer
    _, problems = told(run, address=fake_server.address)
    assert list(problems) == [check]
    assert said in problems[check]["said"]


# ---- TLS and tokens


def credentials(pair: Pair, ca: Path | None = None) -> grpc.ServerCredentials:
    root = None if ca is None else ca.read_bytes()
    return grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())], root, ca is not None)


def problem(address: str, **access: Any) -> Finding:
    """The last that is found, which is what keeps a client that is made so from the server."""
    found = diagnose(Asked(address, access=Access(**access)))[-1]
    assert found.state == "problem"
    assert found.remedy
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_tls_on_one_side_only_a_token_and_a_good_client(
    run: Run, authority: Authority, toy_server: ServerProcess, toy_models: Path, tmp_path: Path
) -> None:
    """Against the real server, which has a certificate and wants to know who calls."""
    callers = tmp_path / "callers.toml"
    callers.touch(0o600)
    for name, role in (("me", "infer"), ("probe", "health")):
        with callers.open("a") as file:
            file.write(f'[callers.{name}]\nroles = ["{role}"]\ntokens = ["{hashed(name)}"]\n')
        (tmp_path / name).write_text(name)
    pair = authority.issue("server", "127.0.0.1", "localhost")
    with ServerProcess(toy_models, *pair.flags(), "--callers", str(callers)) as server:
        code, problems = told(run, address=server.address)
        assert (code, list(problems)) == (7, ["tls"])
        assert "speaks TLS, and this client does not" in problems["tls"]["said"]
        assert "--tls-ca FILE" in problems["tls"]["remedy"]
        by_tls = ("--tls-ca", str(authority.ca))
        code, problems = told(run, *by_tls, address=server.address)
        assert (code, list(problems)) == (8, ["token"])
        assert "it wants a token, none is given" in problems["token"]["said"]
        assert "--token-file" in problems["token"]["remedy"]
        _, problems = told(run, *by_tls, "--token-file", "probe", address=server.address)
        assert "who calls may not do that" in problems["token"]["said"]
        (tmp_path / "wrong").write_text("wrong")
        _, problems = told(run, *by_tls, "--token-file", "wrong", address=server.address)
        assert "the token that was given is not taken" in problems["token"]["said"]
        assert told(run, *by_tls, "--token-file", "me", "tally", address=server.address) == (0, {})
        _, problems = told(run, *by_tls, address=server.metrics_url.split("/")[2])
        assert "speaks no gRPC" in problems["port"]["said"]
    found = problem(toy_server.address, tls=True)
    assert (found.check, found.said) == ("tls", f"{toy_server.address} speaks no TLS, and this client does")


@pytest.mark.parametrize(
    ("times", "check", "said"),
    [
        ({"expired": True}, "tls", "the server's certificate has expired on "),
        ({"early": True}, "clock", "the server's certificate is not valid before "),
    ],
)
def test_certificates_whose_time_is_not_now(authority: Authority, times: dict[str, Any], check: str, said: str) -> None:
    pair = authority.issue("server", "127.0.0.1", **times)
    with fake(lambda request, context: b"", credentials(pair)) as address:
        found = problem(address, tls_ca=authority.ca)
    assert found.check == check
    assert found.said.startswith(said)
    assert "this machine's clock says " in found.said
    shown = _probes.Certificate(ssl.PEM_cert_to_DER_cert(pair.cert.read_text()))
    read = x509.load_pem_x509_certificate(pair.cert.read_bytes())
    assert (shown.begins, shown.ends) == (read.not_valid_before_utc, read.not_valid_after_utc)


def test_other_faults_of_certificates(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    pair = authority.issue("server", "127.0.0.1")
    with fake(lambda request, context: b"", credentials(pair)) as address:
        for access in ({"tls": True}, {"tls_ca": other.ca}):
            assert problem(address, **access).said.startswith("nobody known here has signed the server's certificate")
        found = problem(address, tls_ca=authority.ca, tls_name="else.example")
        assert found.said == "the server's certificate is not for else.example"
    with fake(lambda request, context: b"", credentials(pair, authority.ca)) as address:
        assert problem(address, tls_ca=authority.ca).said.startswith("the server wants a certificate of the client")
        mine, strange = authority.issue("mine"), other.issue("strange")
        place = _probes.Place("127.0.0.1", int(address.rpartition(":")[2]), None, 30)
        assert _probes.handshake(place, Identity(authority.ca, mine.cert, mine.key)) is None
        assert _probes.handshake(place, Identity(authority.ca, strange.cert, strange.key)) is not None
