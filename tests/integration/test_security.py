"""Who gets in: the real server with TLS, certificates of clients, tokens, roles and quotas, over real channels."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral_client import AsyncClient, Client, PermissionDenied, Unauthenticated
from ancestral_server import health
from ancestral_server.access.callers import hashed
from ancestral_server.command_line import WrongUsage
from inference import open_inference_service_pb2, open_inference_service_pb2_grpc
from pki import Authority, Pair
from rpcs import Rpc, rpcs_of
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import tensor, toy_images

CODE = grpc.StatusCode
ENCODE = pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))

# Tokens are the callers' names. `small` and `stream` have hardly any quota: what they may once, they may not twice.
CALLERS = f"""
[callers.infer]
roles = ["infer"]
tokens = ["{hashed("infer")}"]
certificates = ["infer.example"]

[callers.observe]
roles = ["observe"]
tokens = ["{hashed("observe")}"]
certificates = ["spiffe://example/observe", "2001:db8::1"]

[callers.admin]
roles = ["admin"]
tokens = ["{hashed("admin")}", "{hashed("admin's other one")}"]

[callers.probe]
roles = ["health"]
tokens = ["{hashed("probe")}"]

[callers.calls]
roles = ["infer"]
tokens = ["{hashed("calls")}"]
quota = {{calls_per_second = 0.001}}

[callers.images]
roles = ["infer"]
tokens = ["{hashed("images")}"]
quota = {{images_per_second = 1e-300}}

[callers.compute]
roles = ["infer"]
tokens = ["{hashed("compute")}"]
quota = {{compute_seconds_per_second = 1e-7}}

[callers.streams]
roles = ["infer"]
tokens = ["{hashed("streams")}"]
quota = {{streams = 1}}
"""


@dataclass
class Guarded:
    """A server that lets in whom its file names, and how it is reached."""

    server: ServerProcess
    authority: Authority
    own: Pair
    callers: Path
    tls: bool
    mtls: bool
    clients: Mapping[str, Pair] = field(default_factory=dict)

    def channel(self, certificate: str = "stranger") -> grpc.Channel:
        if not self.tls:
            return grpc.insecure_channel(self.server.address)
        return grpc.secure_channel(self.server.address, self.credentials(certificate))

    def credentials(self, certificate: str = "stranger") -> grpc.ChannelCredentials:
        ca = self.authority.ca.read_bytes()
        if not self.mtls:
            return grpc.ssl_channel_credentials(ca)
        pair = self.clients[certificate]
        return grpc.ssl_channel_credentials(ca, pair.key.read_bytes(), pair.cert.read_bytes())

    def scrape(self, token: str = "", certificate: str = "stranger") -> tuple[int, str]:
        """Status and text of the metrics."""
        host, _, port = self.server.metrics_url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        if self.tls:
            context = ssl.create_default_context(cafile=str(self.authority.ca))
            if self.mtls:
                context.load_cert_chain(self.clients[certificate].cert, self.clients[certificate].key)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, int(port), timeout=PATIENCE, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def metric(self, sample: str) -> float:
        status, text = self.scrape("observe")
        assert status == 200, text
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0)


def start(folder: Path, models: Path, kind: str, *flags: str) -> Guarded:
    authority, tls, mtls = Authority(folder), kind != "plain", kind == "mtls"
    own = authority.issue("server", "localhost", "127.0.0.1")
    callers = folder / "callers.toml"
    callers.touch(0o600)
    # Without an authority of clients no certificate can be theirs.
    kept = [line for line in CALLERS.splitlines() if mtls or not line.startswith("certificates")]
    callers.write_text("\n".join(kept))
    clients = {
        "infer": authority.issue("infer", "other.example", "infer.example"),
        "observe": authority.issue("observe", "spiffe://example/observe"),
        # Its common name counts for nothing beside another one.
        "stranger": authority.issue("stranger", "nobody.example", common="infer.example"),
        "common": authority.issue("common", common="infer.example"),
        "address": authority.issue("address", "2001:db8::1"),
        # No name of those that gRPC tells of; and its common name counts for nothing beside any other.
        "directory": authority.issue("directory", "/somewhere", common="infer.example"),
        "expired": authority.issue("expired", "infer.example", expired=True),
    }
    given = ["--callers", str(callers), *(own.flags() if tls else ())]
    given += ["--tls-client-ca", str(authority.ca)] if mtls else []
    server = ServerProcess(models, *PATIENT, "--poll-seconds", "0", *given, *flags)
    return Guarded(server, authority, own, callers, tls, mtls, clients)


@pytest.fixture(scope="module", params=["plain", "tls", "mtls"])
def guarded(
    request: pytest.FixtureRequest, toy_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    found = start(tmp_path_factory.mktemp(request.param), toy_models, request.param, "--health-port", "0")
    with found.server:
        yield found


Headers = tuple[tuple[str, str | bytes], ...]


def bearer(token: str) -> Headers:
    return (("authorization", f"Bearer {token}"),) if token else ()


NOBODY_LOADED = open_inference_service_pb2.RepositoryModelLoadRequest(model_name="none")
NOBODY_UNLOADED = open_inference_service_pb2.RepositoryModelUnloadRequest(model_name="none")


def calls(channel: grpc.Channel, metadata: Headers) -> dict[str, Any]:
    """One call of each kind, by what it is for."""
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
    open_inference = open_inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    options: dict[str, Any] = {"metadata": metadata, "timeout": PATIENCE}
    oip = open_inference_service_pb2
    return {
        "encode": lambda: inference.Encode(ENCODE, **options),
        "stream": lambda: list(inference.EncodeStream(iter([pb.EncodeStreamRequest(encode=ENCODE)]), **options)),
        "list": lambda: models.ListModels(model_service_pb2.ListModelsRequest(), **options),
        "metadata": lambda: open_inference.ModelMetadata(oip.ModelMetadataRequest(name="tally"), **options),
        "statistics": lambda: open_inference.ModelStatistics(oip.ModelStatisticsRequest(), **options),
        "index": lambda: open_inference.RepositoryIndex(oip.RepositoryIndexRequest(), **options),
        "infer stream": lambda: list(open_inference.ModelStreamInfer(iter([]), **options)),
        # Of a model that is not there: who may is told so.
        "open unload": lambda: open_inference.RepositoryModelUnload(NOBODY_UNLOADED, **options),
        "open load": lambda: open_inference.RepositoryModelLoad(NOBODY_LOADED, **options),
        "unload": lambda: models.UnloadModel(model_service_pb2.UnloadModelRequest(name="none"), **options),
        "health": lambda: health.Check(health_pb2.HealthCheckRequest(service="tally"), **options),
        "names": lambda: health.List(health_pb2.HealthListRequest(), **options),
        "reflection": lambda: list(
            reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), **options)
        ),
    }


def answer(call: Any) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return CODE.OK if code is CODE.NOT_FOUND else code
    return CODE.OK


LOOK = {"list", "metadata", "index", "health", "names", "reflection"}
INFER = LOOK | {"encode", "stream", "infer stream"}
OBSERVE = LOOK | {"statistics"}
EVERYTHING = INFER | OBSERVE | {"unload", "open unload", "open load"}


@pytest.mark.parametrize(
    ("token", "certificate", "allowed", "otherwise", "metrics"),
    [
        pytest.param("", "stranger", set(), CODE.UNAUTHENTICATED, 401, id="nobody"),
        pytest.param("wrong", "infer", set(), CODE.UNAUTHENTICATED, 401, id="wrong token"),
        pytest.param("infer", "stranger", INFER, CODE.PERMISSION_DENIED, 403, id="infer"),
        pytest.param("observe", "stranger", OBSERVE, CODE.PERMISSION_DENIED, 200, id="observe"),
        pytest.param("admin", "stranger", EVERYTHING, CODE.OK, 200, id="admin"),
        pytest.param("admin's other one", "stranger", EVERYTHING, CODE.OK, 200, id="admin, another token"),
        pytest.param("probe", "stranger", {"health"}, CODE.PERMISSION_DENIED, 403, id="health"),
        # What somebody says goes before what the certificate says.
        pytest.param("observe", "infer", OBSERVE, CODE.PERMISSION_DENIED, 200, id="observe, another's certificate"),
        pytest.param("", "infer", INFER, CODE.PERMISSION_DENIED, 403, id="certificate of infer"),
        pytest.param("", "common", INFER, CODE.PERMISSION_DENIED, 403, id="certificate with a common name alone"),
        pytest.param("", "observe", OBSERVE, CODE.PERMISSION_DENIED, 200, id="certificate of observe"),
        pytest.param("", "address", OBSERVE, CODE.PERMISSION_DENIED, 200, id="certificate with an IPv6 address"),
        pytest.param("", "directory", set(), CODE.UNAUTHENTICATED, 401, id="certificate with a directory's name"),
    ],
)
def test_the_right_get_in_and_the_others_hear_why_not(
    guarded: Guarded, token: str, certificate: str, allowed: set[str], otherwise: grpc.StatusCode, metrics: int
) -> None:
    if not token and certificate != "stranger" and not guarded.mtls:
        # Nobody is asked for it, and who has nothing else is nobody.
        allowed, otherwise, metrics = set(), CODE.UNAUTHENTICATED, 401
    with guarded.channel(certificate) as channel:
        got = {name: answer(call) for name, call in calls(channel, bearer(token)).items()}
    assert got == {name: CODE.OK if name in allowed else otherwise for name in got}
    status, text = guarded.scrape(token, certificate)
    assert status == metrics
    assert ("tally" in text) == (status == 200)


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "CREDENTIALS_MISSING"),
        ("Bearer wrong", "TOKEN_UNKNOWN"),
        ("Bearer ", "TOKEN_MALFORMED"),
        ("Basic aW5mZXI6aW5mZXI=", "TOKEN_MALFORMED"),
        ("infer", "TOKEN_MALFORMED"),
    ],
)
def test_who_is_not_known_hears_why_and_nothing_else(guarded: Guarded, authorization: str | None, reason: str) -> None:
    metadata: Headers = () if authorization is None else (("authorization", authorization),)
    with guarded.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        calls(channel, metadata)["encode"]()
    if authorization is None and guarded.mtls:
        reason = "CERTIFICATE_UNKNOWN"
    found = details(caught.value)
    assert found["ErrorInfo"].reason == reason
    assert found.keys() == {"ErrorInfo", "RequestInfo"}
    assert guarded.metric(f'ancestral_calls_denied_total{{reason="{reason}"}}') >= 1


@pytest.fixture(scope="module")
def rpcs(toy_server: ServerProcess) -> list[Rpc]:
    return rpcs_of(toy_server.address)


def test_no_method_of_any_service_says_anything_to_somebody_unknown(guarded: Guarded, rpcs: list[Rpc]) -> None:
    """Whatever is added is guarded, too: the methods are found by asking a server without a door."""
    assert len(rpcs) > 20
    with guarded.channel() as channel:
        for rpc in rpcs:
            with pytest.raises(grpc.RpcError) as caught:
                ask(channel, rpc)
            error: Any = caught.value
            assert error.code() is CODE.UNAUTHENTICATED, (rpc.path, error.details())
            assert "tally" not in f"{error.details()} {error.trailing_metadata()} {error.initial_metadata()}"


def ask(channel: grpc.Channel, rpc: Rpc) -> None:
    """Call a method with an empty message, and read a reply. Not by grpc.aio, whose client may lose the status of a
    stream that is ended while it writes (see `rpcs.STATUS_LOST`).
    """
    kind = f"{'stream' if rpc.takes_many else 'unary'}_{'stream' if rpc.gives_many else 'unary'}"
    call = getattr(channel, kind)(rpc.path, rpc.request.SerializeToString, rpc.reply.FromString)
    reply = call(iter([rpc.request()]) if rpc.takes_many else rpc.request(), timeout=PATIENCE)
    if rpc.gives_many:
        next(reply)


@pytest.mark.parametrize("guarded", ["plain"], indirect=True)
def test_a_stream_that_is_refused_says_why_to_both_clients(guarded: Guarded) -> None:
    """Who may look at a model, and not use it, is refused while the first images are on their way."""
    images = toy_images(40)
    said = "observe may not call /ancestral"

    async def ask() -> None:
        async with AsyncClient(guarded.server.address, token="observe") as client:
            async for _ in client.encode_stream("tally", images, message_size=1):
                pass

    for _ in range(5):
        with pytest.raises(PermissionDenied, match=said):
            asyncio.run(ask())
        with (
            Client(guarded.server.address, token="observe") as client,
            pytest.raises(PermissionDenied, match=said),
        ):
            list(client.encode_stream("tally", images, message_size=1))


def details(error: Any) -> dict[str, Any]:
    """The google.rpc messages of an error, by their names."""
    kinds = ("ErrorInfo", "RequestInfo", "QuotaFailure", "RetryInfo")
    found = {}
    for packed in rpc_status.from_call(error).details:
        name = packed.type_url.rpartition(".")[2]
        assert name in kinds
        found[name] = getattr(error_details_pb2, name).FromString(packed.value)
    return found


@pytest.mark.parametrize(
    ("caller", "limit"),
    [
        ("calls", "calls_per_second"),
        ("images", "images_per_second"),
        ("compute", "compute_seconds_per_second"),
    ],
)
def test_who_is_over_its_quota_hears_when_to_come_again_and_nobody_else_is_hurt(
    guarded: Guarded, caller: str, limit: str
) -> None:
    sample = f'ancestral_caller_over_quota_total{{caller="{caller}"}}'
    before = guarded.metric(sample)
    with guarded.channel() as channel:
        # The first may have come in another test.
        until(lambda: answer(calls(channel, bearer(caller))["encode"]) is CODE.RESOURCE_EXHAUSTED)
        with pytest.raises(grpc.RpcError) as caught:
            calls(channel, bearer(caller))["encode"]()
        assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
        found = details(caught.value)
        assert found["ErrorInfo"].reason == "QUOTA_EXCEEDED"
        assert found["ErrorInfo"].metadata["limit"] == limit
        (violation,) = found["QuotaFailure"].violations
        assert violation.subject == f"caller:{caller}"
        assert limit in violation.description
        assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 1
        others = [answer(calls(channel, bearer("infer"))["encode"]) for _ in range(20)]
    assert others == [CODE.OK] * 20
    assert guarded.metric(sample) >= before + 2


def test_all_that_is_watched_of_callers_is_in_a_scrape(guarded: Guarded) -> None:
    boards = (Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards").glob("*.json")
    watched = {name for board in boards for name in re.findall(r"ancestral_caller_\w+", board.read_text())}
    assert len(watched) == 3
    text = guarded.scrape("observe")[1]
    assert {name for name in watched if f'\n{name}{{caller="streams"}} ' in text} == watched


def test_streams_are_counted_until_they_end(guarded: Guarded) -> None:
    over = threading.Event()

    def messages() -> Iterator[pb.EncodeStreamRequest]:
        yield pb.EncodeStreamRequest(encode=ENCODE)
        assert over.wait(PATIENCE)

    with guarded.channel() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stream = stub.EncodeStream(messages(), metadata=bearer("streams"), timeout=PATIENCE)
        assert next(stream).index == 0
        second = calls(channel, bearer("streams"))
        assert answer(second["stream"]) is CODE.RESOURCE_EXHAUSTED
        # A call is none.
        assert answer(second["encode"]) is CODE.OK
        assert guarded.metric('ancestral_caller_in_flight{caller="streams"}') == 1
        over.set()
        assert list(stream) == []
        until(lambda: answer(second["stream"]) is CODE.OK)
    until(lambda: guarded.metric('ancestral_caller_in_flight{caller="streams"}') == 0)


def test_probes_ask_in_plain_text_for_what_they_can_name(guarded: Guarded, toy_models: Path) -> None:
    port = listening(guarded.server, "health")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        found = calls(channel, ())
        assert answer(found["health"]) is CODE.OK
        # It names nothing by itself, and there is nothing else.
        for name in EVERYTHING - {"health"}:
            assert answer(found[name]) is CODE.UNIMPLEMENTED, name


def test_the_health_command_asks_either_port(
    guarded: Guarded, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    port = listening(guarded.server, "health")
    assert health.main([], {"ANCESTRAL_SERVER_HEALTH_PORT": port, "ANCESTRAL_SERVER_PORT": "1"}) == 0
    given = ["--address", guarded.server.address, "--model", "tally"]
    given += ["--tls-ca", str(guarded.authority.ca)] if guarded.tls else []
    if guarded.mtls:
        pair = guarded.clients["stranger"]
        given += ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    (tmp_path / "token").write_text("probe\n")
    assert health.main([*given, "--token-file", str(tmp_path / "token")], {}) == 0
    assert health.main(given, {"ANCESTRAL_TOKEN": "probe"}) == 0
    assert health.main(given, {}) == 1
    assert "UNAUTHENTICATED" in capsys.readouterr().err
    with pytest.raises(WrongUsage, match="--tls-ca: none cannot be read: No such file"):
        health.main([*given, "--tls-ca", "none"], {})


def listening(server: ServerProcess, what: str) -> str:
    found = re.search(rf"{what} on \S+:(\d+)", server.said)
    assert found is not None, server.said
    return found[1]


# ---- certificates


def serial(address: str, authority: Authority) -> str:
    """Of the certificate that a port shows who connects now."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.ca))
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return str((connection.getpeercert() or {})["serialNumber"])


def test_a_renewed_certificate_is_used_and_no_call_notices(toy_models: Path, tmp_path: Path) -> None:
    found = start(tmp_path, toy_models, "tls")
    metrics = found.server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    over, ended = threading.Event(), []

    def go_on() -> None:
        with found.channel() as channel:
            encode = calls(channel, bearer("infer"))["encode"]
            while not over.is_set():
                ended.append(answer(encode))

    def reloads(what: str, outcome: str) -> float:
        return found.metric(f'ancestral_access_reloads_total{{outcome="{outcome}",what="{what}"}}')

    with found.server:
        calling = threading.Thread(target=go_on)
        calling.start()
        try:
            first = serial(found.server.address, found.authority)
            assert serial(metrics, found.authority) == first
            until(lambda: len(ended) > 10)
            renewed = found.authority.issue("renewed", "localhost", "127.0.0.1")
            # As long as only one of the two is there they do not belong together, and the old ones go on.
            os.replace(renewed.cert, found.own.cert)
            until(lambda: reloads("certificates", "refused") >= 1)
            assert serial(found.server.address, found.authority) == first
            os.replace(renewed.key, found.own.key)
            until(lambda: reloads("certificates", "used") == 1)
            second = serial(found.server.address, found.authority)
            assert second != first
            assert serial(metrics, found.authority) == second
            # Callers, too: a new one comes in, and one who was taken out is no longer known.
            text = found.callers.read_text()
            found.callers.write_text(text.replace(hashed("infer"), hashed("renewed")))
            until(lambda: reloads("callers", "used") == 1)
            with found.channel() as channel:
                assert answer(calls(channel, bearer("renewed"))["encode"]) is CODE.OK
                assert answer(calls(channel, bearer("infer"))["encode"]) is CODE.UNAUTHENTICATED
                found.callers.write_text("[callers")
                until(lambda: reloads("callers", "refused") == 1)
                assert answer(calls(channel, bearer("renewed"))["encode"]) is CODE.OK
        finally:
            over.set()
            calling.join()
    # Until its token was taken away every call of the connection that was there before got its answer.
    assert CODE.OK in ended
    assert set(ended) <= {CODE.OK, CODE.UNAUTHENTICATED}
    assert ended == sorted(ended, key=lambda code: code is not CODE.OK)
    refused = [json.loads(line) for line in found.server.log if "what has changed is not used" in line]
    assert [each["what"] for each in refused] == ["certificates", "callers"]
    assert "is not the key of the certificate" in refused[0]["reason"]


def test_without_a_certificate_that_holds_nobody_gets_through_mutual_tls(guarded: Guarded) -> None:
    if not guarded.mtls:
        ca = guarded.authority.ca.read_bytes() if guarded.tls else None
        assert ca is None or answer(calls(guarded.channel(), bearer("infer"))["encode"]) is CODE.OK
        return
    ca = guarded.authority.ca.read_bytes()
    with grpc.secure_channel(guarded.server.address, grpc.ssl_channel_credentials(ca)) as channel:
        assert answer(calls(channel, bearer("admin"))["health"]) is CODE.UNAVAILABLE
    with guarded.channel("expired") as channel:
        assert answer(calls(channel, bearer("admin"))["health"]) is CODE.UNAVAILABLE
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        guarded.scrape("admin", "expired")
    with grpc.insecure_channel(guarded.server.address) as channel:
        assert answer(calls(channel, bearer("admin"))["health"]) is CODE.UNAVAILABLE


# ---- where nothing is set


def test_anybody_who_reaches_it_may_call_but_nobody_may_change_models_unless_on_this_machine(toy_models: Path) -> None:
    with ServerProcess(toy_models, *PATIENT, "--host", "0.0.0.0") as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        with grpc.insecure_channel(address) as channel:
            found = calls(channel, bearer("whatever"))
            assert {name for name, call in found.items() if answer(call) is not CODE.OK} == {
                "unload",
                "open unload",
                "open load",
            }
            with pytest.raises(grpc.RpcError) as caught:
                found["unload"]()
        assert caught.value.code() is CODE.PERMISSION_DENIED
        assert "--callers" in str(caught.value.details())
    (remark,) = (json.loads(line)["event"] for line in server.log if "whoever reaches" in line)
    assert remark.startswith("whoever reaches 0.0.0.0 may call")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_is_wrong_is_said_before_the_port_opens(toy_models: Path, tmp_path: Path, processes: str) -> None:
    pair = Authority(tmp_path).issue("old", "localhost", expired=True)
    command = [sys.executable, "-m", "ancestral_server", "--models", str(toy_models), "--device", "cpu", "--port", "0"]
    command += [*pair.flags(), "--metrics-port", "0", "--processes", processes]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"ancestral-server: --tls-cert {pair.cert}: has expired; renew it\n"


def test_a_taken_port_for_health_is_said(toy_models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError) as caught:
            ServerProcess(toy_models, "--health-port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --health-port" in str(
        caught.value
    )


def test_several_processes_share_the_port_and_what_guards_it(toy_models: Path, tmp_path: Path) -> None:
    found = start(tmp_path, toy_models, "tls", "--processes", "2", "--threads", "2", "--health-port", "0")
    with found.server:
        with found.channel() as channel:
            assert answer(calls(channel, bearer("infer"))["encode"]) is CODE.OK
            assert answer(calls(channel, ())["encode"]) is CODE.UNAUTHENTICATED
        port = listening(found.server, "health")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert answer(calls(channel, ())["health"]) is CODE.OK


# ---- the client


def test_the_client_comes_in_by_what_it_is_given(guarded: Guarded) -> None:
    certificate = guarded.clients["stranger"]
    access: dict[str, Any] = {"tls_ca": str(guarded.authority.ca)} if guarded.tls else {}
    if guarded.mtls:
        access |= {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    with Client(guarded.server.address, token="infer", timeout=PATIENCE, **access) as client:
        assert [model.name for model in client.models()] == ["tally"]
        assert client.encode("tally", toy_images(3)).mean.shape == (3, 2)
    with Client(guarded.server.address, timeout=PATIENCE, **access) as client, pytest.raises(Unauthenticated):
        client.models()
