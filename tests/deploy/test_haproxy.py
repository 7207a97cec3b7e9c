"""HAProxy as deploy/ ships it, before two real servers: calls of one channel are shared, and no caller notices when the
servers are replaced one after the other.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_client import AncestralError, Client
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import tensor, toy_images

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
NAMES = ("one", "two")
# A server that stops has its time for what it has begun, and no more: it is the proxy that keeps calls from it.
FLAGS = (*PATIENT, "--poll-seconds", "0")


def free_ports(count: int) -> list[int]:
    """Different ones."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class Pair:
    """Two servers, and the proxy before them. ports: of the proxy, of its statistics, and of the two."""

    def __init__(self, haproxy: Path, models: Path, folder: Path, stack: contextlib.ExitStack) -> None:
        self.models = models
        self.ports = free_ports(4)
        front, self.statistics, *behind = self.ports
        self.address = f"127.0.0.1:{front}"
        self.servers = [self.start(port) for port in behind]
        stack.callback(lambda: [server.stop() for server in self.servers])
        text = CONFIG.read_text()
        for shipped, port in zip(
            (":8500", "127.0.0.1:8404", "127.0.0.1:8501", "127.0.0.1:8502"), self.ports, strict=True
        ):
            assert len(re.findall(rf"{re.escape(shipped)}\b", text)) == 1
            text = text.replace(shipped, f"127.0.0.1:{port}")
        (folder / "haproxy.cfg").write_text(text)
        log = stack.enter_context((folder / "log").open("w"))
        proxy = subprocess.Popen([haproxy, "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=subprocess.STDOUT)
        stack.callback(proxy.wait, PATIENCE)
        stack.callback(proxy.terminate)
        until(lambda: proxy.poll() is not None or all(map(self.is_up, NAMES)))
        assert proxy.poll() is None, (folder / "log").read_text()

    def start(self, port: int) -> ServerProcess:
        return ServerProcess(self.models, "--port", str(port), *FLAGS)

    def is_up(self, name: str) -> bool:
        """Whether the proxy sends calls to a server, by its health checks."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.statistics}/metrics", timeout=PATIENCE) as reply:
                text = reply.read().decode()
        except OSError:
            return False
        up = rf'haproxy_server_status{{proxy="ancestral",server="{name}",state="UP"}} 1'
        passed = rf'haproxy_server_check_status{{proxy="ancestral",server="{name}",state="L7OK"}} 1'
        return up in text and passed in text

    def replace(self, number: int) -> None:
        """Stop a server, and start another in its place once the proxy has seen that it is gone."""
        assert self.servers[number].stop() == 0
        until(lambda: not self.is_up(NAMES[number]))
        self.servers[number] = self.start(self.ports[2 + number])
        until(lambda: self.is_up(NAMES[number]))

    def answered(self) -> list[float]:
        """Calls of Encode that each server has answered."""
        said = {"grpc_method": "Encode", "grpc_code": "OK"}
        return [server.metric("grpc_server_handled_total", **said) for server in self.servers]


@pytest.fixture(scope="module")
def pair(tool: Callable[[str], Path], toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield Pair(tool("haproxy"), toy_models, tmp_path_factory.mktemp("haproxy"), stack)


def test_the_calls_of_one_channel_are_shared(pair: Pair) -> None:
    before = pair.answered()
    request = pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))
    with grpc.insecure_channel(pair.address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(100):
            stub.Encode(request, timeout=PATIENCE, wait_for_ready=True)
    shares = [after - earlier for after, earlier in zip(pair.answered(), before, strict=True)]
    assert sum(shares) == 100
    assert all(45 <= share <= 55 for share in shares), shares


def test_no_call_fails_while_both_servers_are_replaced_in_turn(pair: Pair) -> None:
    over = threading.Event()
    images = toy_images(3)
    failed: list[BaseException] = []
    calls = [0, 0, 0]

    def call(number: int) -> None:
        with Client(pair.address) as client:
            while not over.is_set():
                try:
                    np.testing.assert_allclose(client.encode("tally", images).mean, toybundle.encode(images), rtol=1e-6)
                    calls[number] += 1
                except (AncestralError, AssertionError) as error:
                    failed.append(error)
                    return

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(len(calls))]
    for caller in callers:
        caller.start()
    try:
        for number in range(len(NAMES)):
            pair.replace(number)
            # Callers go on, and the new one has its part of them.
            until(lambda: failed or min(pair.answered()) > 0)
    finally:
        over.set()
        for caller in callers:
            caller.join(PATIENCE)
    assert not failed
    assert min(calls) > 0
