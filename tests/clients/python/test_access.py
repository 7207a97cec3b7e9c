"""How a client is let in: what it makes of its arguments and of the environment, and what it says of what is wrong."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

import ancestral_client as ac
from ancestral.v1 import model_service_pb2
from ancestral_client import cli
from ancestral_client._access import Access, Entry
from ancestral_client.sklearn import EncodeFeatures
from fakeserver import FakeServer
from pki import Authority, Pair
from waiting import PATIENCE

HERE, ELSEWHERE = "localhost:1", "host.example:1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    return authority.issue("own", "own.example")


@dataclass
class TlsServer:
    address: str
    fake: FakeServer


def served(pair: Pair, ca: Path | None = None) -> Iterator[TlsServer]:
    """A server with this certificate, that answers with no models; with `ca` it wants certificates of clients."""
    fake = FakeServer()
    fake.answer = lambda request, context: model_service_pb2.ListModelsResponse().SerializeToString()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[fake])
    roots = None if ca is None else ca.read_bytes()
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())], roots, ca is not None)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    yield TlsServer(f"localhost:{port}", fake)
    server.stop(None).wait()


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[TlsServer]:
    yield from served(authority.issue("server", "localhost"))


@pytest.fixture(scope="module")
def named_server(authority: Authority) -> Iterator[TlsServer]:
    yield from served(authority.issue("named", "other.example"))


@pytest.fixture(scope="module")
def expired_server(authority: Authority) -> Iterator[TlsServer]:
    yield from served(authority.issue("expired", "localhost", expired=True))


@pytest.fixture(scope="module")
def mutual_server(authority: Authority) -> Iterator[TlsServer]:
    yield from served(authority.issue("mutual", "localhost"), authority.ca)


def entry(address: str, environment: dict[str, str], **arguments: Any) -> Entry:
    return Entry(Access(**arguments), address, environment)


@pytest.mark.parametrize(
    ("address", "arguments", "environment", "tls", "token"),
    [
        (ELSEWHERE, {}, {}, False, ""),
        (ELSEWHERE, {"tls": True}, {}, True, ""),
        (ELSEWHERE, {"tls_ca": "CA"}, {}, True, ""),
        (ELSEWHERE, {"tls_name": "other"}, {}, True, ""),
        (ELSEWHERE, {"tls_cert": "CERT", "tls_key": "KEY"}, {}, True, ""),
        # A token goes over a network by TLS, unless somebody says otherwise.
        (ELSEWHERE, {"token": "t"}, {}, True, "t"),
        (HERE, {"token": "t"}, {}, False, "t"),
        ("unix:/a", {"token": "t"}, {}, False, "t"),
        (ELSEWHERE, {"token": "t", "tls": False}, {}, False, "t"),
        (ELSEWHERE, {"token_file": "TOKEN"}, {}, True, "of-the-file"),
        (ELSEWHERE, {}, {"ANCESTRAL_TLS": "yes"}, True, ""),
        (ELSEWHERE, {}, {"ANCESTRAL_TLS": "0", "ANCESTRAL_TOKEN": " t\n"}, False, "t"),
        (ELSEWHERE, {}, {"ANCESTRAL_TLS": "", "ANCESTRAL_TLS_CA": " ", "ANCESTRAL_TOKEN": ""}, False, ""),
        (HERE, {}, {"ANCESTRAL_TLS_CA": "CA", "ANCESTRAL_TOKEN_FILE": "TOKEN"}, True, "of-the-file"),
        # An argument goes before a variable.
        (HERE, {"token": "t"}, {"ANCESTRAL_TOKEN": "v"}, False, "t"),
        (HERE, {"token": "t"}, {"ANCESTRAL_TOKEN_FILE": "none"}, False, "t"),
        (HERE, {"token_file": "TOKEN"}, {"ANCESTRAL_TOKEN": "v"}, False, "of-the-file"),
        (HERE, {"token": ""}, {"ANCESTRAL_TOKEN": "v"}, False, ""),
        (HERE, {"tls": False}, {"ANCESTRAL_TLS_CA": "none", "ANCESTRAL_TLS": "true"}, False, ""),
    ],
)
def test_arguments_and_variables(
    authority: Authority,
    own: Pair,
    tmp_path: Path,
    address: str,
    arguments: dict[str, Any],
    environment: dict[str, str],
    tls: bool,
    token: str,
) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    paths = {"CA": authority.ca, "CERT": own.cert, "KEY": own.key, "TOKEN": file}
    found = entry(
        address,
        {name: str(paths.get(value, value)) for name, value in environment.items()},
        **{name: paths.get(value, value) for name, value in arguments.items()},
    )
    assert (found.credentials is not None) is tls
    assert found.metadata() == ((("authorization", f"Bearer {token}"),) if token else ())


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ({"tls": False, "tls_ca": "CA"}, {}, "tls: is false, and tls_ca is given, which is for TLS: leave one out"),
        ({}, {"TLS": "no", "TLS_NAME": "a"}, "ANCESTRAL_TLS: is false, and ANCESTRAL_TLS_NAME is given"),
        ({}, {"TLS": "maybe"}, "ANCESTRAL_TLS: is 'maybe'; must be true or false"),
        ({"token": "a", "token_file": "TOKEN"}, {}, "token: is given, and so is token_file: leave one out"),
        ({}, {"TOKEN": "a", "TOKEN_FILE": "TOKEN"}, "ANCESTRAL_TOKEN: is given, and so is ANCESTRAL_TOKEN_FILE"),
        ({"token": "se cret"}, {}, "token: holds no token; must be printable ASCII without spaces"),
        ({"token_file": "none"}, {}, "token_file: none cannot be read: No such file or directory"),
        ({"token_file": "EMPTY"}, {}, "token_file: holds no token"),
        ({}, {"TLS_CA": "none"}, "ANCESTRAL_TLS_CA: none cannot be read"),
        ({"tls_ca": "EMPTY"}, {}, "tls_ca: {EMPTY} holds no certificate in PEM"),
        ({"tls_key": "KEY"}, {}, "tls_key: is given, and no tls_cert that it belongs to"),
        ({"tls_cert": "CERT"}, {}, "tls_cert: {CERT} is no certificate with its key in PEM, without a password"),
        ({"tls_cert": "CERT", "tls_key": "OTHER"}, {}, "tls_cert: {CERT} and {OTHER} are no certificate with its key"),
    ],
)
def test_what_is_wrong_is_named_where_it_was_given(
    authority: Authority,
    own: Pair,
    tmp_path: Path,
    arguments: dict[str, Any],
    environment: dict[str, str],
    said: str,
) -> None:
    (tmp_path / "empty").touch()
    paths = {
        "CA": authority.ca,
        "CERT": own.cert,
        "KEY": own.key,
        "OTHER": authority.issue("other", "a").key,
        "TOKEN": tmp_path / "empty",
        "EMPTY": tmp_path / "empty",
    }
    with pytest.raises(ac.InvalidArgument) as caught:
        entry(
            HERE,
            {f"ANCESTRAL_{name}": str(paths.get(value, value)) for name, value in environment.items()},
            **{name: paths.get(value, value) for name, value in arguments.items()},
        )
    assert str(caught.value).startswith(said.format(**{name: str(path) for name, path in paths.items()}))
    assert "se cret" not in str(caught.value)


def test_a_token_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    found = entry(HERE, {}, token_file=file)
    assert found.metadata() == (("authorization", "Bearer first"),)
    (tmp_path / "next").write_text("second")
    (tmp_path / "next").replace(file)
    assert found.metadata() == (("authorization", "Bearer second"),)
    # What was there last goes on, while it is away.
    file.unlink()
    assert found.metadata() == (("authorization", "Bearer second"),)


def test_the_token_goes_with_every_call_over_tls(authority: Authority, tls_server: TlsServer) -> None:
    with ac.Client(tls_server.address, tls_ca=str(authority.ca), token="secret", timeout=PATIENCE) as client:
        assert client.models() == []
        # Who prints it reads no secret; who copies it gets one that may come in, too.
        assert "secret" not in f"{client!r}{client.__dict__}"
        assert copy.deepcopy(client).models() == []
        assert pickle.loads(pickle.dumps(client)).models() == []
    assert [sent["authorization"] for sent in tls_server.fake.metadata[-3:]] == ["Bearer secret"] * 3


def test_a_client_that_is_awaited_takes_the_same(
    authority: Authority, tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setenv("ANCESTRAL_TLS_CA", str(authority.ca))
    monkeypatch.setenv("ANCESTRAL_TOKEN", "secret")

    async def ask() -> list[ac.Model]:
        async with ac.AsyncClient(tls_server.address, timeout=PATIENCE) as client:
            return await client.models()

    assert asyncio.run(ask()) == []
    assert tls_server.fake.metadata[-1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("server", "arguments", "said"),
    [
        ("tls_server", {"tls": True}, "tls_ca= names who has"),
        ("named_server", {"tls_ca": "CA"}, "tls_name= says which one to expect"),
        ("expired_server", {"tls_ca": "CA"}, "has expired: its owner has to renew it"),
        ("fake_server", {"tls_ca": "CA"}, "the server there speaks no TLS"),
        ("tls_server", {}, "does it speak TLS"),
        ("mutual_server", {"tls_ca": "CA"}, "tls_cert="),
    ],
)
def test_why_there_is_no_connection_is_told(
    request: pytest.FixtureRequest, authority: Authority, server: str, arguments: dict[str, Any], said: str
) -> None:
    address = request.getfixturevalue(server).address
    given: dict[str, Any] = {name: str(authority.ca) if value == "CA" else value for name, value in arguments.items()}
    with (
        ac.Client(address, retry_seconds=0, timeout=PATIENCE, **given) as client,
        pytest.raises(ac.Unavailable) as caught,
    ):
        client.models()
    assert said in str(caught.value)


def test_another_name_may_be_expected(authority: Authority, named_server: TlsServer) -> None:
    ca = str(authority.ca)
    with ac.Client(named_server.address, timeout=PATIENCE, tls_ca=ca, tls_name="other.example") as client:
        assert client.models() == []


def test_every_command_takes_the_options_before_it_and_after_it(
    authority: Authority, tls_server: TlsServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    access = ["--tls-ca", str(authority.ca), "--token-file", str(tmp_path / "token")]
    run = CliRunner().invoke
    for arguments in (
        [*access, "--address", tls_server.address, "models"],
        ["models", "--address", tls_server.address, *access],
        ["--tls-ca", "none", "--address", tls_server.address, "models", *access],
    ):
        said = run(cli.app, arguments)
        assert (said.exit_code, said.stdout) == (0, "The server has no models.\n"), said
        assert tls_server.fake.metadata[-1]["authorization"] == "Bearer secret"
    said = run(cli.app, ["--help"])
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    assert "sample" in names
    for name in names:
        text = run(cli.app, [name.replace("_", "-"), "--help"]).stdout
        for option in ("--tls / --no-tls", "--tls-ca FILE", "--tls-cert", "--tls-key", "--tls-name", "--token-file"):
            assert option in text, (name, option)
    said = run(cli.app, ["models", "--tls-ca", "none"])
    assert str(said.exception).startswith("--tls-ca: none cannot be read")


def test_an_estimator_takes_the_same_and_holds_no_token(authority: Authority, tmp_path: Path) -> None:
    estimator = EncodeFeatures("m", tls_ca=str(authority.ca), token_file=str(tmp_path / "token"))
    assert set(estimator.get_params()) >= {"tls", "tls_ca", "tls_cert", "tls_key", "tls_name", "token_file"}
    assert "token" not in estimator.get_params()
    (tmp_path / "token").write_text("secret")
    assert estimator._client()._settings.access.token_file == str(tmp_path / "token")
    assert b"secret" not in pickle.dumps(estimator)
