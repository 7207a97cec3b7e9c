"""Certificates as they are read before the ports open: what is wrong with them, in one line that says what to do."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ancestral_server.access import Access, Certificates
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings
from pki import DAY, Authority, Pair


def settings(cert: Path | None = None, key: Path | None = None, ca: Path | None = None, **more: object) -> Settings:
    return Settings.model_validate({"models": "m", "tls_cert": cert, "tls_key": key, "tls_client_ca": ca, **more})


def test_a_pair_is_read_with_its_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "localhost")
    found = Certificates.read(settings(pair.cert, pair.key, authority.ca))
    assert found is not None
    assert (found.cert, found.key, found.client_ca) == tuple(
        path.read_bytes() for path in (pair.cert, pair.key, authority.ca)
    )
    assert found.expires == pytest.approx(time.time() + DAY.total_seconds(), abs=600)
    assert found.context.verify_mode is ssl.CERT_REQUIRED
    # Both in one file, and with who signed it, in whatever order.
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(pair.key.read_bytes() + pair.cert.read_bytes() + authority.ca.read_bytes())
    whole = Certificates.read(settings(both))
    assert whole is not None
    assert (whole.expires, whole.client_ca) == (found.expires, None)
    assert Certificates.read(settings()) is None


def mismatched(authority: Authority, folder: Path) -> Settings:
    return settings(authority.issue("one", "a").cert, authority.issue("two", "a").key)


def expired(authority: Authority, folder: Path) -> Settings:
    pair = authority.issue("old", "a", expired=True)
    return settings(pair.cert, pair.key)


def of_expired_clients(authority: Authority, folder: Path) -> Settings:
    pair = authority.issue("server", "a")
    return settings(pair.cert, pair.key, Authority(folder, "old", expired=True).ca)


def of_no_authority(authority: Authority, folder: Path) -> Settings:
    pair = authority.issue("server", "a")
    return settings(pair.cert, pair.key, pair.cert)


def of_no_pem(authority: Authority, folder: Path) -> Settings:
    pair = authority.issue("server", "a")
    (folder / "empty").write_text("nothing")
    return settings(pair.cert, pair.key, folder / "empty")


def without_a_key(authority: Authority, folder: Path) -> Settings:
    cert = authority.issue("server", "a").cert
    cert.chmod(0o600)
    return settings(cert)


def open_to_others(authority: Authority, folder: Path) -> Settings:
    pair = authority.issue("server", "a")
    pair.key.chmod(0o644)
    return settings(pair.cert, pair.key)


def not_there(authority: Authority, folder: Path) -> Settings:
    return settings(folder / "none.pem")


def names_without_an_authority(authority: Authority, folder: Path) -> Settings:
    pair, callers = authority.issue("server", "a"), folder / "callers.toml"
    callers.touch(0o600)
    callers.write_text('[callers.a]\nroles = ["infer"]\ncertificates = ["a"]\n')
    return settings(pair.cert, pair.key, callers=callers)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            mismatched,
            "--tls-key {0}/two.key: is not the key of the certificate --tls-cert {0}/one.pem; give the one",
        ),
        (expired, "--tls-cert {0}/old.pem: has expired; renew it"),
        (of_expired_clients, "--tls-client-ca {0}/old.pem: has expired; renew it"),
        (of_no_authority, "--tls-client-ca {0}/server.pem: holds no certificate that may sign others"),
        (of_no_pem, "--tls-client-ca {0}/empty: holds no certificates in PEM"),
        (without_a_key, "--tls-cert {0}/server.pem: no certificate with its key, in PEM and without a password ("),
        (
            open_to_others,
            "--tls-key {0}/server.key: others can read or change it (mode 0644); chmod 600 {0}/server.key",
        ),
        (not_there, "--tls-cert {0}/none.pem: cannot be read: No such file or directory"),
        (
            names_without_an_authority,
            "--callers {0}/callers.toml: names certificates, which nobody is asked for without",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: Callable[[Authority, Path], Settings], said: str) -> None:
    with pytest.raises(StartupError) as caught:
        Access(wrong(Authority(tmp_path), tmp_path))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(said.format(tmp_path)), line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_key": "k"}, "is of no use without --tls-cert"),
        ({"tls_client_ca": "c"}, "is of no use without --tls-cert"),
        ({"health_port": 8500}, "must be another port than --port"),
        ({"health_port": 9464}, "must be another port than --metrics-port"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings(**given)


def replaced(pair: Pair, by: Pair) -> None:
    for old, new in ((pair.cert, by.cert), (pair.key, by.key)):
        os.replace(new, old)


def test_what_has_changed_is_read_again_and_what_is_not_fit_is_not_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "localhost")
    access = Access(settings(pair.cert, pair.key))
    first = access.certificates
    assert access._certificates.look() is None
    assert access.certificates is first
    replaced(pair, authority.issue("next", "localhost"))
    assert access._certificates.look() is True
    assert access.certificates is not first
    second = access.certificates
    for spoil in (lambda: pair.key.unlink(), lambda: pair.cert.write_text("nothing"), lambda: pair.cert.unlink()):
        spoil()
        assert access._certificates.look() is False
        # Said once.
        assert access._certificates.look() is None
        assert access.certificates is second
    replaced(pair, authority.issue("third", "localhost"))
    assert access._certificates.look() is True
    assert access.certificates is not second


@pytest.mark.parametrize(
    ("host", "given", "said", "admin"),
    [
        ("127.0.0.1", {}, "", True),
        ("localhost", {}, "", True),
        ("::ffff:127.0.0.1", {}, "", True),
        ("0.0.0.0", {}, "whoever reaches 0.0.0.0 may call: --callers says who may", False),
        ("no-such-host.invalid", {}, "whoever reaches", False),
        ("0.0.0.0", {"callers": True}, "tokens come in plain text", False),
        ("0.0.0.0", {"callers": True, "tls": True}, "", False),
        (
            "0.0.0.0",
            {"callers": True, "tls": True, "metrics_tls": False},
            "tokens come to the metrics' port in plain",
            False,
        ),
        ("0.0.0.0", {"tls": True}, "whoever reaches 0.0.0.0 may call: --callers says who may; nobody", False),
        ("0.0.0.0", {"tls": True, "ca": True}, "", False),
        ("0.0.0.0", {"tls": True, "ca": True, "metrics_tls": False}, "whoever reaches 0.0.0.0 may read the", False),
        ("0.0.0.0", {"callers": True, "tls": True, "anybody": True}, "whoever reaches 0.0.0.0 may load and", False),
        ("127.0.0.1", {"callers": True}, "", False),
        ("127.0.0.1", {"tls": True, "ca": True}, "", False),
    ],
)
def test_who_may_do_what_where_nothing_says_so(
    tmp_path: Path, host: str, given: dict[str, bool], said: str, admin: bool
) -> None:
    authority = Authority(tmp_path)
    pair, callers = authority.issue("server", "a"), tmp_path / "callers.toml"
    callers.touch(0o600)
    text = f'[callers.a]\nroles = ["admin"]\ntokens = ["sha256:{"0" * 64}"]\n'
    callers.write_text(text + ('[anonymous]\nroles = ["admin"]\n' if given.get("anybody") else ""))
    more: dict[str, object] = {"host": host, "metrics_tls": given.get("metrics_tls", True)}
    if given.get("callers"):
        more["callers"] = callers
    cert, key = (pair.cert, pair.key) if given.get("tls") else (None, None)
    access = Access(settings(cert, key, authority.ca if given.get("ca") else None, **more))
    assert access.is_open is admin
    assert [remark[: len(said)] for remark in access.remarks()] == ([said] if said else [])
