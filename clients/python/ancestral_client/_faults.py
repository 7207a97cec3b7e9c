"""What keeps a client from a server, in words: each fault with what to do about it. Pure: `_diagnosis` finds them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import grpc

from ancestral_client._probes import Certificate, Place, Unreachable
from ancestral_client.errors import AncestralError
from ancestral_client.results import Model

State = Literal["ok", "problem", "unknown"]

# Exit codes as a call would end with them; see cli.py.
FAULT, WRONG, NO_MODEL, CANNOT, LATE, NOBODY, NOT_ALLOWED = 1, 2, 3, 4, 6, 7, 8

_TOKEN = "give one that may do that by --token-file FILE; whoever runs the server makes it: ancestral-server token"
_LIMIT = (
    "start the server with --max-message-mib 64, raise the limit of what stands between, or make the client with "
    "max_message_bytes=..."
)
# OpenSSL's numbers of what is wrong with a certificate: X509_V_ERR_... of x509_vfy.h.
_NOT_YET, _EXPIRED, _OTHER_HOST = 9, 10, 62


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` is what to do about a problem."""

    check: str
    state: State
    said: str
    remedy: str = ""
    code: int = 0


def problem(check: str, code: int, said: str, remedy: str) -> Finding:
    return Finding(check, "problem", said, remedy, code)


# ---- the way there


def unreachable(place: Place, error: Unreachable, elsewhere: str) -> Finding:
    """No connection; `elsewhere` is where the server may be instead."""
    if error.fault == "proxy":
        assert place.proxy is not None, "no proxy, no fault of it"
        variable = place.proxy.variable
        return problem(
            "proxy",
            NOBODY,
            f"{variable} sends {place.host} by way of {place.proxy.host}:{place.proxy.port}: {error}",
            f"to go there without a proxy, name it in no_proxy: export no_proxy={place.host}; else mend {variable}",
        )
    if error.fault == "name":
        return problem("name", NOBODY, str(error), "look at how the name is written, or give the host's address")
    return problem("port", NOBODY, str(error), elsewhere)


def no_grpc(place: Place, by_http: bool, elsewhere: str) -> Finding:
    """Something else listens there."""
    if by_http:
        said = f"port {place.port} of {place.host} speaks HTTP/1, no gRPC: perhaps it is the port of the metrics"
    else:
        said = f"what listens on port {place.port} of {place.host} speaks no gRPC"
    return problem("port", NOBODY, said, elsewhere)


def elsewhere(usual: Place | None, here: bool) -> str:
    """Where the server may be instead: at the `usual` place, where something answers that speaks gRPC."""
    if usual is not None:
        address = f"{usual.host}:{usual.port}"
        return f"something that speaks gRPC listens on port {usual.port}: --address {address}"
    start = "start a server with: make serve; or " if here else ""
    return f"{start}look for 'listening on' in the server's log, and at what stands between it and here"


# ---- TLS


def tls_here_only(place: Place) -> Finding:
    said = f"{place.host}:{place.port} speaks no TLS, and this client does"
    return problem("tls", NOBODY, said, "--no-tls, or start the server with a certificate (--tls-cert)")


def tls_there_only(place: Place) -> Finding:
    said = f"{place.host}:{place.port} speaks TLS, and this client does not"
    remedy = "ask for TLS: --tls, with --tls-ca FILE where its authority is not one that everybody knows"
    return problem("tls", NOBODY, said, remedy)


def handshake(error: ssl.SSLError, shown: Certificate, host: str, now: datetime) -> Finding:
    """TLS fails; `host` is the name that the certificate is held to."""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    match getattr(error, "verify_code", None):
        case int(number) if number == _EXPIRED:
            when = f" on {shown.ends:%Y-%m-%d %H:%M} UTC" if shown.ends else ""
            said = f"the server's certificate has expired{when}; {clock}"
            return problem("tls", NOBODY, said, "renew it; or, where the clock is wrong, set that")
        case int(number) if number == _NOT_YET:
            when = f" before {shown.begins:%Y-%m-%d %H:%M} UTC" if shown.begins else " yet"
            said = f"the server's certificate is not valid{when}, and {clock}"
            return problem("clock", NOBODY, said, "set the clock that is wrong, by NTP")
        case int(number) if number == _OTHER_HOST:
            remedy = "use a name that stands in it (--address, --tls-name), or have one made for this name"
            return problem("tls", NOBODY, f"the server's certificate is not for {host}", remedy)
        case int():
            message = getattr(error, "verify_message", "") or str(error)
            said = f"nobody known here has signed the server's certificate ({message})"
            return problem("tls", NOBODY, said, "give the certificate of who has signed it: --tls-ca FILE")
    reason = (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
    if ("alert" in reason and "certificate" in reason) or "after the handshake" in reason:
        said = f"the server wants a certificate of the client, or another one: {reason}"
        remedy = "give one that its authority has signed, and its key: --tls-cert FILE --tls-key FILE"
        return problem("tls", NOBODY, said, remedy)
    return problem("tls", NOBODY, f"TLS fails: {reason}", "look at what the server's log says of it")


# ---- calls


def refused(failed: grpc.RpcError, error: AncestralError, with_token: bool, timeout: float) -> Finding:
    """The first call fails; `error` is what a client raises for it."""
    code, text = failed.code(), failed.details() or ""
    match code:
        case grpc.StatusCode.UNAUTHENTICATED:
            given = "the token that was given is not taken" if with_token else "it wants a token, none is given"
            return problem("token", NOT_ALLOWED, f"{given} ({text})", _TOKEN)
        case grpc.StatusCode.PERMISSION_DENIED:
            return problem("token", NOT_ALLOWED, f"who calls may not do that ({text})", _TOKEN)
        case grpc.StatusCode.UNIMPLEMENTED:
            said = "what answers knows no ancestral.v1.ModelService: another kind of server, or a far older one"
            return problem("server", CANNOT, said, "look at the address, and update the server")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return problem("server", LATE, f"no answer within {timeout:g} s", "wait longer with --timeout")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
            return problem("message limit", WRONG, text, _LIMIT)
    return problem("server", NOBODY, error.message, "look into the server's log, if it is there")


def clocks(ours: datetime, theirs: datetime) -> Finding:
    ahead = (ours - theirs).total_seconds()
    off = timedelta(seconds=round(abs(ahead)))
    return problem(
        "clock",
        FAULT,
        f"this machine's clock is {off} {'ahead of' if ahead > 0 else 'behind'} the server's: here it is "
        f"{ours:%Y-%m-%d %H:%M:%S} UTC, there {theirs:%Y-%m-%d %H:%M:%S}",
        "set the one that is wrong, by NTP: certificates, tokens, logs and traces go by it",
    )


def no_version() -> Finding:
    said = "the server does not tell its version: it is far older than this client, or another kind of server"
    return problem("version", CANNOT, said, "update the server")


def other_server(name: str, version: str) -> Finding:
    return problem("version", CANNOT, f"the server is {name!r} {version}", "look at the address")


def old_server(theirs: str, ours: str) -> Finding:
    said = f"the server is an old one, {theirs}, and this client {ours}: what came since it does not know"
    remedy = f"update the server, or install its client: pip install 'ancestral[client]=={theirs}'"
    return problem("version", CANNOT, said, remedy)


def no_models() -> Finding:
    remedy = "put a bundle into its folder of models: ancestral-exporter train, or make demo"
    return problem("models", NO_MODEL, "the server has no models", remedy)


def no_such_model(name: str, version: int, there: list[str]) -> Finding:
    what = f"{name} version {version}" if version else name
    said = f"there is no {what}; there are {', '.join(there)}"
    remedy = f"name one of these, or put its bundle into the server's folder and: ancestral load {name}"
    return problem("models", NO_MODEL, said, remedy)


def not_well(model: Model) -> Finding | None:
    """What is wrong with a version, if anything is."""
    name, load = f"{model.name} version {model.version}", f"ancestral load {model.name}"
    if model.serving:
        if not model.reason:
            return None
        said = f"what lies in the folder of {name} now was refused, what served goes on: {model.reason}"
        return problem("models", WRONG, said, f"mend the bundle, then: {load}")
    if model.state != "not serving":
        return Finding("models", "unknown", f"{name} is {model.state}")
    if "on request" in model.reason:
        return problem("models", NOBODY, f"{name}: {model.reason}", load)
    return problem("models", WRONG, f"{name} was refused: {model.reason}", f"mend or export it anew, then: {load}")


def small_limit(theirs: int, ours: int) -> Finding:
    said = f"the server takes messages of at most {in_bytes(theirs)}, this client sends and takes {in_bytes(ours)}"
    return problem("message limit", WRONG, said, _LIMIT)


def limit_between(size: int, text: str) -> Finding:
    """A message that the server should take does not go through."""
    return problem("message limit", WRONG, f"a message of {in_bytes(size)} does not go through: {text}", _LIMIT)


def in_bytes(count: int) -> str:
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count} bytes"
