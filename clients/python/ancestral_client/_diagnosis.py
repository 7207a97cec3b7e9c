"""What keeps a client from a server: checks in the order in which they build on each other, and remedies."""

from __future__ import annotations

import math
import os
import ssl
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Any, Literal

import grpc

from ancestral.v1 import model_service_pb2, model_service_pb2_grpc
from ancestral_client import _address, _channel, _probes, _wire, errors
from ancestral_client._access import Access, Entry
from ancestral_client._probes import Certificate, Identity, Place, Unreachable
from ancestral_client._proxies import proxy_of
from ancestral_client.results import Model
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc

State = Literal["ok", "problem", "unknown"]
_DEFAULT_PORT = 8500
# Clocks that differ by less hurt nobody; tokens and certificates are off by minutes.
_CLOCK_SECONDS = 60.0
# Enough that one slow answer is not taken for the way there, and over at once.
_PINGS = 5
# More than gRPC's own 4 MiB, which servers and proxies have that nobody told otherwise. One as large as the limit, 64
# MiB, holds a server up for as long as it takes to read it.
_PROBE_BYTES = 5 * 2**20
# What the probe's message needs beside its array.
_PROBE_ENVELOPE_BYTES = 64

# Exit codes as a call would end with them; see cli.py.
FAULT, WRONG, NO_MODEL, CANNOT, LATE, NOBODY, NOT_ALLOWED = 1, 2, 3, 4, 6, 7, 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` is what to do about a problem."""

    check: str
    state: State
    said: str
    remedy: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A client as it is set up, and what it should be able to do."""

    address: str
    timeout: float = 10.0
    model: str | None = None
    version: int = 0
    max_message_bytes: int = _channel.MAX_MESSAGE_BYTES
    access: Access = field(default_factory=Access)


class _Stop(Exception):
    """What follows builds on what is missing."""


def wall_clock() -> datetime:
    """What this machine takes for the time."""
    return datetime.now(UTC)


def diagnose(asked: Asked) -> list[Finding]:
    """All findings, in order, until one that the rest builds on."""
    entry = Entry(asked.access, asked.address)
    diagnosis = _Diagnosis(asked, entry)
    try:
        diagnosis.ways()
        with _channel.blocking(asked.address, asked.max_message_bytes, entry) as channel:
            diagnosis.calls(channel)
    except _Stop:
        pass
    return diagnosis.findings


class _Diagnosis:
    def __init__(self, asked: Asked, entry: Entry) -> None:
        self.findings: list[Finding] = []
        self._asked = asked
        self._tls = entry.credentials is not None
        self._credentials = entry.metadata()
        files, _ = asked.access.or_of(os.environ)
        self._identity = Identity(files.tls_ca, files.tls_cert, files.tls_key, files.tls_name)
        self._wait = min(asked.timeout, 5.0) if math.isfinite(asked.timeout) else 5.0

    def _ok(self, check: str, said: str) -> None:
        self.findings.append(Finding(check, "ok", said))

    def _unknown(self, check: str, said: str) -> None:
        self.findings.append(Finding(check, "unknown", said))

    def _problem(self, check: str, code: int, said: str, remedy: str) -> None:
        self.findings.append(Finding(check, "problem", said, remedy, code))

    def _end(self, check: str, code: int, said: str, remedy: str) -> _Stop:
        self._problem(check, code, said, remedy)
        return _Stop()

    # ---- the way there

    def ways(self) -> None:
        places = _address.endpoints(self._asked.address)
        if not places:
            self._unknown("port", f"{self._asked.address} is no port of a host; only calls can tell")
        for host, port in places:
            proxy = proxy_of(self._asked.address, host, os.environ)
            place = Place(host, port, proxy, self._wait)
            try:
                self._way(place)
            except Unreachable as error:
                raise self._unreachable(place, error) from None

    def _way(self, place: Place) -> None:
        began = time.monotonic()
        place.connect().close()
        took = (time.monotonic() - began) * 1000
        if place.proxy is not None:
            by = f"{place.proxy.host}:{place.proxy.port}"
            self._ok("proxy", f"{place.host} is reached by way of {by}, which {place.proxy.variable} names")
        self._ok("port", f"{place.host}:{place.port} takes connections, in {took:.0f} ms")
        speaks = _probes.speaks(place)
        shown = None if speaks else _probes.certificate_of(place)
        if speaks == "http":
            said = f"port {place.port} of {place.host} speaks HTTP/1, no gRPC: perhaps it is the port of the metrics"
            raise self._end("port", NOBODY, said, self._elsewhere(place))
        if not speaks and (shown is None or shown.other_protocol):
            said = f"what listens on port {place.port} of {place.host} speaks no gRPC"
            raise self._end("port", NOBODY, said, self._elsewhere(place))
        if shown is None and self._tls:
            said = f"{place.host}:{place.port} speaks no TLS, and this client does"
            raise self._end("tls", NOBODY, said, "--no-tls, or start the server with a certificate (--tls-cert)")
        if shown is None:
            self._ok("tls", "none, on either side")
        elif self._tls:
            self._secure(place, shown)
        else:
            said = f"{place.host}:{place.port} speaks TLS, and this client does not"
            raise self._end("tls", NOBODY, said, f"ask for TLS: {TLS_REMEDY}")

    def _unreachable(self, place: Place, error: Unreachable) -> _Stop:
        if error.fault == "proxy":
            assert place.proxy is not None, "no proxy, no fault of it"
            variable = place.proxy.variable
            return self._end(
                "proxy",
                NOBODY,
                f"{variable} sends {place.host} by way of {place.proxy.host}:{place.proxy.port}: {error}",
                f"to go there without a proxy, name it in no_proxy: export no_proxy={place.host}; else mend {variable}",
            )
        if error.fault == "name":
            return self._end("name", NOBODY, str(error), "look at how the name is written, or give the host's address")
        return self._end("port", NOBODY, str(error), self._elsewhere(place))

    def _elsewhere(self, place: Place) -> str:
        """Where the server may be instead."""
        usual = Place(place.host, _DEFAULT_PORT, place.proxy, self._wait)
        try:
            if place.port != _DEFAULT_PORT and _probes.speaks(usual) == "grpc":
                address = f"{place.host}:{_DEFAULT_PORT}"
                return f"something that speaks gRPC listens on port {_DEFAULT_PORT}: --address {address}"
        except Unreachable:
            pass
        start = "start a server with: make serve; or " if _address.on_this_machine(self._asked.address) else ""
        return f"{start}look for 'listening on' in the server's log, and at what stands between it and here"

    # ---- TLS

    def _secure(self, place: Place, shown: Certificate) -> None:
        error = _probes.handshake(place, self._identity)
        if error is not None:
            check, said, remedy = _of_tls(error, shown, self._identity.server_name or place.host)
            raise self._end(check, NOBODY, said, remedy)
        until = f" until {shown.ends:%Y-%m-%d %H:%M} UTC" if shown.ends else ""
        self._ok("tls", f"the server's certificate is good{until}")

    # ---- calls

    def calls(self, channel: grpc.Channel) -> None:
        models = self._models(channel)
        self._server_version(channel)
        self._check_models(models)
        self._message_limit(channel, models)
        self._latency(channel)

    def _options(self) -> dict[str, Any]:
        return {
            "timeout": None if math.isinf(self._asked.timeout) else self._asked.timeout,
            "metadata": self._credentials,
        }

    def _models(self, channel: grpc.Channel) -> list[Model]:
        """What there is, by the first call; says how that went, and whether clocks agree."""
        stub, request = model_service_pb2_grpc.ModelServiceStub(channel), model_service_pb2.ListModelsRequest()
        found: list[Model] = []
        while True:
            try:
                reply, call = stub.ListModels.with_call(request, **self._options())
            except grpc.RpcError as failed:
                raise self._failed(failed) from None
            if not found:
                self._ok("server", f"{self._asked.address} answers calls")
                self._clock(str(dict(call.trailing_metadata() or ()).get("date", "")))
            found += map(_wire.model, reply.models)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def _failed(self, failed: grpc.RpcError) -> _Stop:
        """Why the first call failed."""
        code, text = failed.code(), failed.details() or ""
        match code:
            case grpc.StatusCode.UNAUTHENTICATED:
                given = (
                    "the token that was given is not taken" if self._credentials else "it wants a token, none is given"
                )
                return self._end("token", NOT_ALLOWED, f"{given} ({text})", TOKEN_REMEDY)
            case grpc.StatusCode.PERMISSION_DENIED:
                return self._end("token", NOT_ALLOWED, f"who calls may not do that ({text})", TOKEN_REMEDY)
            case grpc.StatusCode.UNIMPLEMENTED:
                return self._end(
                    "server",
                    CANNOT,
                    "what answers knows no ancestral.v1.ModelService: another kind of server, or a far older one",
                    "look at the address, and update the server",
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return self._end(
                    "server", LATE, f"no answer within {self._asked.timeout:g} s", "wait longer with --timeout"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
                return self._end("message limit", WRONG, text, LIMIT_REMEDY)
        error = errors.from_rpc(failed, address=self._asked.address, timeout=self._asked.timeout, request_id="")
        return self._end("server", NOBODY, error.message, "look into the server's log, if it is there")

    def _clock(self, date: str) -> None:
        """Whether the server's clock, by the `date` of its answer, agrees with the one here."""
        try:
            theirs = parsedate_to_datetime(date)
        except ValueError:
            self._unknown("clock", "the server does not tell its time")
            return
        ours = wall_clock()
        ahead = (ours - theirs).total_seconds()
        if abs(ahead) < _CLOCK_SECONDS:
            self._ok("clock", "agrees with the server's")
            return
        self._problem(
            "clock",
            FAULT,
            f"this machine's clock is {_duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the server's: "
            f"here it is {ours:%Y-%m-%d %H:%M:%S} UTC, there {theirs:%Y-%m-%d %H:%M:%S}",
            "set the one that is wrong, by NTP: certificates, tokens, logs and traces go by it",
        )

    def _server_version(self, channel: grpc.Channel) -> None:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        try:
            told = stub.ServerMetadata(oip.ServerMetadataRequest(), **self._options())
        except grpc.RpcError:
            self._problem(
                "version",
                CANNOT,
                "the server does not tell its version: it is far older than this client, or another kind of server",
                "update the server",
            )
            return
        ours = metadata.version("ancestral")
        if told.name != "ancestral":
            self._problem("version", CANNOT, f"the server is {told.name!r} {told.version}", "look at the address")
        elif _numbers(told.version) < _numbers(ours):
            self._problem(
                "version",
                CANNOT,
                f"the server is an old one, {told.version}, and this client {ours}: what came since it does not know",
                f"update the server, or install its client: pip install 'ancestral[client]=={told.version}'",
            )
        else:
            self._ok("version", f"the server's is {told.version}, the client's {ours}")

    def _check_models(self, models: list[Model]) -> None:
        wanted, version = self._asked.model, self._asked.version
        if not models:
            self._problem(
                "models",
                NO_MODEL,
                "the server has no models",
                "put a bundle into its folder of models: ancestral-exporter train, or make demo",
            )
            return
        there = ", ".join(sorted({model.name for model in models}))
        if wanted is not None:
            models = [model for model in models if model.name == wanted and version in (0, model.version)]
            if not models:
                what = f"{wanted} version {version}" if version else wanted
                self._problem(
                    "models",
                    NO_MODEL,
                    f"there is no {what}; there are {there}",
                    "name one of these, or put its bundle into the server's folder and: ancestral load " + wanted,
                )
                return
        self._refused(models)
        serving = sorted({model.name for model in models if model.serving})
        if serving:
            self._ok("models", f"{', '.join(serving)} {'serve' if len(serving) > 1 else 'serves'}")

    def _refused(self, models: list[Model]) -> None:
        for model in models:
            name = f"{model.name} version {model.version}"
            if model.serving and model.reason:
                said = f"what lies in the folder of {name} now was refused, what served goes on: {model.reason}"
                self._problem("models", WRONG, said, f"mend the bundle, then: ancestral load {model.name}")
            elif model.state == "not serving" and "on request" in model.reason:
                self._problem("models", NOBODY, f"{name}: {model.reason}", f"ancestral load {model.name}")
            elif model.state == "not serving":
                said = f"{name} was refused: {model.reason}"
                self._problem("models", WRONG, said, f"mend or export it anew, then: ancestral load {model.name}")
            elif not model.serving:
                self._unknown("models", f"{name} is {model.state}")

    def _message_limit(self, channel: grpc.Channel, models: list[Model]) -> None:
        """Whether the server takes what the client sends, by its word and by a message that is refused for its text."""
        ours = self._asked.max_message_bytes
        told = min((model.limits.max_message_bytes for model in models if model.limits), default=ours)
        if told < ours:
            said = f"the server takes messages of at most {_bytes(told)}, this client sends and takes {_bytes(ours)}"
            self._problem("message limit", WRONG, said, LIMIT_REMEDY)
            return
        stub, size = model_service_pb2_grpc.ModelServiceStub(channel), min(_PROBE_BYTES, ours)
        request = model_service_pb2.ListModelsRequest(page_token="-" * (size - _PROBE_ENVELOPE_BYTES))
        try:
            stub.ListModels(request, **self._options())
        except grpc.RpcError as failed:
            code, text = failed.code(), failed.details() or ""
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                said = f"a message of {_bytes(size)} does not go through: {text}"
                self._problem("message limit", WRONG, said, LIMIT_REMEDY)
                return
            if code is not grpc.StatusCode.INVALID_ARGUMENT:
                said = f"whether a message of {_bytes(size)} goes through is not known: {code.name} {text}"
                self._unknown("message limit", said)
                return
        self._ok("message limit", f"{_bytes(told)} by the server's word; {_bytes(size)} went through")

    def _latency(self, channel: grpc.Channel) -> None:
        stub, seconds = model_service_pb2_grpc.ModelServiceStub(channel), list[float]()
        request = model_service_pb2.ListModelsRequest(page_size=1)
        try:
            for _ in range(_PINGS):
                began = time.monotonic()
                stub.ListModels(request, **self._options())
                seconds.append(time.monotonic() - began)
        except grpc.RpcError as failed:
            self._unknown("latency", f"{failed.code().name}: {failed.details()}")
            return
        middle, most = statistics.median(seconds) * 1000, max(seconds) * 1000
        self._ok("latency", f"a small call takes {middle:.1f} ms, at most {most:.1f} of {_PINGS}")


TLS_REMEDY = "--tls, with --tls-ca FILE where its authority is not one that everybody knows"
TOKEN_REMEDY = (
    "give one that may do that by --token-file FILE; whoever runs the server makes it: ancestral-server token"
)
LIMIT_REMEDY = (
    "start the server with --max-message-mib 64, raise the limit of what stands between, or make the client with "
    "max_message_bytes=..."
)

# OpenSSL's numbers of what is wrong with a certificate: X509_V_ERR_... of x509_vfy.h.
_NOT_YET, _EXPIRED, _OTHER_HOST = 9, 10, 62


def _of_tls(error: ssl.SSLError, shown: Certificate, host: str) -> tuple[str, str, str]:
    """Which check fails, what is wrong, and what to do about it."""
    now = f"this machine's clock says {wall_clock():%Y-%m-%d %H:%M} UTC"
    match getattr(error, "verify_code", None):
        case int(number) if number == _EXPIRED:
            when = f" on {shown.ends:%Y-%m-%d %H:%M} UTC" if shown.ends else ""
            said = f"the server's certificate has expired{when}; {now}"
            return "tls", said, "renew it; or, where the clock is wrong, set that"
        case int(number) if number == _NOT_YET:
            when = f" before {shown.begins:%Y-%m-%d %H:%M} UTC" if shown.begins else " yet"
            said = f"the server's certificate is not valid{when}, and {now}"
            return "clock", said, "set the clock that is wrong, by NTP"
        case int(number) if number == _OTHER_HOST:
            said = f"the server's certificate is not for {host}"
            return "tls", said, "use a name that stands in it (--address, --tls-name), or have one made for this name"
        case int():
            message = getattr(error, "verify_message", "") or str(error)
            said = f"nobody known here has signed the server's certificate ({message})"
            return "tls", said, "give the certificate of who has signed it: --tls-ca FILE"
    reason = (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
    if ("alert" in reason and "certificate" in reason) or "after the handshake" in reason:
        said = f"the server wants a certificate of the client, or another one: {reason}"
        return "tls", said, "give one that its authority has signed, and its key: --tls-cert FILE --tls-key FILE"
    return "tls", f"TLS fails: {reason}", "look at what the server's log says of it"


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (0, 3) of "0.3.dev1"."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _bytes(count: int) -> str:
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count} bytes"
