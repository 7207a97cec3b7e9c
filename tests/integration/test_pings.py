"""Clients that ping on a quiet stream, to be sooner than what lies between: as often as the setting allows."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import grpc
import pytest

import messages
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from running import ServerProcess
from wire import tensor, toy_images

_PING, _GOAWAY, _ACK = 6, 7, 1


class CountingLink:
    """Forwards the one connection that comes to `address`. A context manager."""

    def __init__(self, address: str) -> None:
        self._target = address.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.answered = 0
        self._changed = threading.Condition()

    def wait_for_answers(self, count: int, seconds: float = 60) -> None:
        """Until so many pings of the client have been answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.answered >= count, seconds), f"{self.answered} pings"

    def __enter__(self) -> CountingLink:
        threading.Thread(target=self._forward, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.close()

    def _forward(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:  # nobody came
            return
        host, _, port = self._target
        far = socket.create_connection((host, int(port)))
        self._ends += [near, far]
        threading.Thread(target=self._carry, args=(near, far), daemon=True).start()
        threading.Thread(target=self._carry_answers, args=(far, near), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # either end is gone
            return

    def _carry_answers(self, source: socket.socket, target: socket.socket) -> None:
        try:
            with source.makefile("rb") as frames:
                while head := frames.read(9):
                    target.sendall(head + frames.read(int.from_bytes(head[:3], "big")))
                    if head[3] == _PING and head[4] & _ACK:
                        with self._changed:
                            self.answered += 1
                            self._changed.notify_all()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture(scope="module")
def lenient(toy_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(toy_models, "--min-ping-seconds", "0") as server:
        yield server


def test_a_client_that_pings_on_a_quiet_stream_is_served(lenient: ServerProcess) -> None:
    often = [("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0), ("grpc.enable_retries", 0)]
    with (
        CountingLink(lenient.address) as link,
        grpc.insecure_channel(link.address, options=often) as channel,
    ):
        messages_to_send: queue.Queue[pb.EncodeStreamRequest | None] = queue.Queue()
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stream = stub.EncodeStream(iter(lambda: messages_to_send.get(), None), timeout=120)
        images = pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="tally", images=tensor(toy_images(1))))
        messages_to_send.put(images)
        next(stream)
        # gRPC forgives two, and ends the connection at the third.
        link.wait_for_answers(4)
        messages_to_send.put(images)
        next(stream)
        messages_to_send.put(None)
        assert list(stream) == []


def pinged(address: str, times: int) -> tuple[int, bytes]:
    """Ping so many times, each at the answer to the one before, beside an open stream: how many were answered, and what
    ended the connection, if anything did.
    """
    host, _, port = address.rpartition(":")
    answered = 0
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as frames:
        stream = messages.headers("/ancestral.v1.InferenceService/EncodeStream")
        ping = messages.frame(_PING, 0, 0, bytes(8))
        connection.sendall(messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 4, 1, stream) + ping)
        while answered < times and (head := frames.read(9)):
            content = frames.read(int.from_bytes(head[:3], "big"))
            if head[3] == _GOAWAY:
                return answered, content[8:]
            if head[3] == _PING and head[4] & _ACK:
                answered += 1
                connection.sendall(ping)
    return answered, b""


def test_pings_beyond_the_setting_end_the_connection(toy_server: ServerProcess) -> None:
    assert pinged(toy_server.address, 1000)[1] == b"too_many_pings"


def test_zero_allows_any_pings(lenient: ServerProcess) -> None:
    assert pinged(lenient.address, 1000) == (1000, b"")
