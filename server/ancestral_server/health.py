"""`ancestral-server health`: whether a server, or each model that is needed, takes calls; for probes and scripts.

It imports nothing of the server itself: a probe comes every few seconds and must not load onnxruntime each time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ancestral_server.addresses import host_of, joined
from ancestral_server.command_line import Parser, WrongUsage, from_environment
from ancestral_server.settings import Settings

# Exit codes beside 0 and, for wrong usage, 2.
NOT_SERVING = 1
# A probe of Kubernetes or Docker that is not told otherwise gives up after 1 s and after 30 s.
DEFAULT_SECONDS = 3.0
# Where a server that listens everywhere can be reached from its own machine or container.
_EVERYWHERE = {"0.0.0.0", "::"}
# No proxy has a part in it.
_OPTIONS = (("grpc.enable_http_proxy", 0),)
_TLS_FILES = ("tls-ca", "tls-cert", "tls-key")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code: 0 if all that was asked for takes calls, else 1 and a line for each that does not.

    WrongUsage names the flag that is wrong.
    """
    asked = _parser(environment).parse_args(arguments)
    address = _address(asked.address)
    if not 0 < asked.timeout < float("inf"):
        raise WrongUsage(f"--timeout: must be more than 0 seconds and finite (got {asked.timeout:g})")
    for model in asked.model or ():
        if not model.isprintable():
            raise WrongUsage(f"--model: must be a name of printable characters (got {model!r})")
    credentials, metadata = _credentials(asked), _metadata(asked, environment)
    options = [*_OPTIONS, *([("grpc.ssl_target_name_override", asked.tls_name)] if asked.tls_name else [])]
    with (
        grpc.insecure_channel(address, options=options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answers = [_ask(stub, address, model, asked.timeout, metadata) for model in asked.model or [""]]
    for said, serves in answers:
        print(said, file=sys.stdout if serves else sys.stderr)
    return 0 if all(serves for _, serves in answers) else NOT_SERVING


def _credentials(asked: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """None for plain text. WrongUsage names what cannot be read."""
    if asked.tls_key is not None and asked.tls_cert is None:
        raise WrongUsage("--tls-key: is of no use without --tls-cert")
    ca, cert, key = (_content(f"--{name}", getattr(asked, name.replace("-", "_"))) for name in _TLS_FILES)
    if not (asked.tls or ca or cert or asked.tls_name):
        return None
    return grpc.ssl_channel_credentials(ca, key or cert, cert)


def _metadata(asked: argparse.Namespace, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    file = _content("--token-file", asked.token_file)
    token = environment.get("ANCESTRAL_TOKEN", "") if file is None else file.decode("latin-1")
    if not (token := token.strip()):
        return []
    if not (token.isascii() and token.isprintable()):
        raise WrongUsage("--token-file or ANCESTRAL_TOKEN: must be printable ASCII")
    return [("authorization", f"Bearer {token}")]


def _content(flag: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WrongUsage(f"{flag}: {path} cannot be read: {error.strerror}") from error


def _ask(
    stub: health_pb2_grpc.HealthStub, address: str, model: str, seconds: float, metadata: list[tuple[str, str]]
) -> tuple[str, bool]:
    """What to say of a model, or with "" of the server, and whether it takes calls."""
    what = f"model {model} on {address}" if model else address
    try:
        reply = stub.Check(health_pb2.HealthCheckRequest(service=model), timeout=seconds, metadata=metadata)
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.NOT_FOUND:
            return f"{what}: the server has none of that name; `ancestral models` lists those that it has", False
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{what}: no answer within {seconds:g} s (--timeout)", False
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return f"{what}: answers, and knows no health checks (grpc.health.v1)", False
        return f"{what}: {code.name}: {error.details()}", False
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return f"{what}: {name}", reply.status == health_pb2.HealthCheckResponse.SERVING


def _parser(environment: Mapping[str, str]) -> Parser:
    parser = Parser(
        "ancestral-server health",
        description="Ask a server by grpc.health.v1 whether it takes calls. Exit code 0: yes; 1: no, or no answer; "
        "2: wrong usage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        default=_own_address(environment),
        help="where the server listens (default here: %(default)s, by ANCESTRAL_SERVER_HOST and ANCESTRAL_SERVER_PORT, "
        "or ANCESTRAL_SERVER_HEALTH_PORT)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        action="append",
        help="a model that has to serve, NAME or NAME/VERSION; may be given several times. Without one: the server, "
        "which also takes calls while it has no model",
    )
    parser.add_argument(
        "--tls", action="store_true", help="speak TLS; taken for granted where one of the next is given"
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="who signs the server's certificate, PEM")
    parser.add_argument("--tls-cert", metavar="FILE", help="a certificate of one's own, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    parser.add_argument("--tls-name", metavar="NAME", help="the name in the server's certificate, if not the host's")
    parser.add_argument(
        "--token-file", metavar="FILE", help="the token that says who asks (default: the variable ANCESTRAL_TOKEN)"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_SECONDS,
        help="how long to wait for each answer (default: %(default)g)",
    )
    return parser


def _own_address(environment: Mapping[str, str]) -> str:
    """Where a server with these variables and no flags listens."""
    variables, _ = from_environment(environment)
    given = {field: value.strip() for field, (_, value) in variables.items()}
    host = given.get("host", Settings.model_fields["host"].default).strip("[]")
    # The port that is for this, where there is one: in plain text, and for anybody.
    port = given.get("health_port") or given.get("port", str(Settings.model_fields["port"].default))
    return f"{'localhost' if host in _EVERYWHERE else f'[{host}]' if ':' in host else host}:{port}"


def _address(text: str) -> str:
    """HOST:PORT as gRPC takes it. WrongUsage if it is none."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= 65535:
        raise WrongUsage(f"--address: must be HOST:PORT, the port from 1 to 65535 (got {text!r})")
    try:
        return joined(host_of(host), int(port))
    except ValueError as error:
        raise WrongUsage(f"--address: {error} (got {text!r})") from error
