"""The way of a call, step by step: checks in the order in which they build on each other, until one fails."""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Any

import grpc

from ancestral.v1 import model_service_pb2, model_service_pb2_grpc
from ancestral_client import _address, _channel, _faults, _probes, _wire, errors
from ancestral_client._access import Access, Entry
from ancestral_client._channel import Way
from ancestral_client._faults import Finding
from ancestral_client._probes import Certificate, Identity, Place, Unreachable
from ancestral_client._proxies import proxy_of
from ancestral_client.results import Model
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc

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

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.said)
        self.finding = finding


def wall_clock() -> datetime:
    """What this machine takes for the time."""
    return datetime.now(UTC)


def diagnose(asked: Asked) -> list[Finding]:
    """All findings, in order, until one that the rest builds on."""
    entry = Entry(asked.access, asked.address)
    diagnosis = _Diagnosis(asked, entry)
    try:
        diagnosis.ways()
        with _channel.blocking(Way(asked.address, asked.max_message_bytes), entry) as channel:
            diagnosis.calls(channel)
    except _Stop as stop:
        diagnosis.findings.append(stop.finding)
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
                raise _Stop(_faults.unreachable(place, error, self._elsewhere(place))) from None

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
        if speaks == "http" or (not speaks and (shown is None or shown.other_protocol)):
            raise _Stop(_faults.no_grpc(place, speaks == "http", self._elsewhere(place)))
        if shown is None and self._tls:
            raise _Stop(_faults.tls_here_only(place))
        if shown is None:
            self._ok("tls", "none, on either side")
        elif self._tls:
            self._secure(place, shown)
        else:
            raise _Stop(_faults.tls_there_only(place))

    def _elsewhere(self, place: Place) -> str:
        """Where the server may be instead."""
        usual = Place(place.host, _DEFAULT_PORT, place.proxy, self._wait)
        try:
            answers = place.port != _DEFAULT_PORT and _speaks_grpc(usual)
        except Unreachable:
            answers = False
        return _faults.elsewhere(usual if answers else None, _address.on_this_machine(self._asked.address))

    # ---- TLS

    def _secure(self, place: Place, shown: Certificate) -> None:
        error = _probes.handshake(place, self._identity)
        if error is not None:
            raise _Stop(_faults.handshake(error, shown, self._identity.server_name or place.host, wall_clock()))
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
                address, timeout = self._asked.address, self._asked.timeout
                error = errors.from_rpc(failed, address=address, timeout=timeout, request_id="")
                raise _Stop(_faults.refused(failed, error, bool(self._credentials), timeout)) from None
            if not found:
                self._ok("server", f"{self._asked.address} answers calls")
                self._clock(str(dict(call.trailing_metadata() or ()).get("date", "")))
            found += map(_wire.model, reply.models)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def _clock(self, date: str) -> None:
        """Whether the server's clock, by the `date` of its answer, agrees with the one here."""
        try:
            theirs = parsedate_to_datetime(date)
        except ValueError:
            self._unknown("clock", "the server does not tell its time")
            return
        ours = wall_clock()
        if abs((ours - theirs).total_seconds()) < _CLOCK_SECONDS:
            self._ok("clock", "agrees with the server's")
        else:
            self.findings.append(_faults.clocks(ours, theirs))

    def _server_version(self, channel: grpc.Channel) -> None:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        try:
            told = stub.ServerMetadata(oip.ServerMetadataRequest(), **self._options())
        except grpc.RpcError:
            self.findings.append(_faults.no_version())
            return
        ours = metadata.version("ancestral")
        if told.name != "ancestral":
            self.findings.append(_faults.other_server(told.name, told.version))
        elif _numbers(told.version) < _numbers(ours):
            self.findings.append(_faults.old_server(told.version, ours))
        else:
            self._ok("version", f"the server's is {told.version}, the client's {ours}")

    def _check_models(self, models: list[Model]) -> None:
        wanted, version = self._asked.model, self._asked.version
        if not models:
            self.findings.append(_faults.no_models())
            return
        if wanted is not None:
            there = sorted({model.name for model in models})
            models = [model for model in models if model.name == wanted and version in (0, model.version)]
            if not models:
                self.findings.append(_faults.no_such_model(wanted, version, there))
                return
        self.findings += filter(None, map(_faults.not_well, models))
        serving = sorted({model.name for model in models if model.serving})
        if serving:
            self._ok("models", f"{', '.join(serving)} {'serve' if len(serving) > 1 else 'serves'}")

    def _message_limit(self, channel: grpc.Channel, models: list[Model]) -> None:
        """Whether the server takes what the client sends, by its word and by a message that is refused for its text."""
        ours = self._asked.max_message_bytes
        told = min((model.limits.max_message_bytes for model in models if model.limits), default=ours)
        if told < ours:
            self.findings.append(_faults.small_limit(told, ours))
            return
        stub, size = model_service_pb2_grpc.ModelServiceStub(channel), min(_PROBE_BYTES, ours)
        request = model_service_pb2.ListModelsRequest(page_token="-" * (size - _PROBE_ENVELOPE_BYTES))
        message = f"a message of {_faults.in_bytes(size)}"
        try:
            stub.ListModels(request, **self._options())
        except grpc.RpcError as failed:
            code, text = failed.code(), failed.details() or ""
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self.findings.append(_faults.limit_between(size, text))
                return
            if code is not grpc.StatusCode.INVALID_ARGUMENT:
                self._unknown("message limit", f"whether {message} goes through is not known: {code.name} {text}")
                return
        self._ok("message limit", f"{_faults.in_bytes(told)} by the server's word; {message} went through")

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


def _speaks_grpc(place: Place) -> bool:
    """With TLS or without."""
    speaks = _probes.speaks(place)
    if speaks:
        return speaks == "grpc"
    shown = _probes.certificate_of(place)
    return shown is not None and not shown.other_protocol


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (0, 3) of "0.3.dev1"."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
