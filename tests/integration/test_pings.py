"""Clients that ping on a quiet stream, to be sooner than what lies between: as often as the setting allows."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import messages
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from link import Link
from running import ServerProcess
from wire import tensor, toy_images

_PING, _GOAWAY, _ACK = 6, 7, 1


class Pongs:
    """Counts the pings that the server answers on one connection."""

    def __init__(self) -> None:
        self._pending = b""
        self._count = 0
        self._changed = threading.Condition()

    def heard(self, piece: bytes) -> None:
        """What the server sent next, frames and parts of such."""
        self._pending += piece
        while len(self._pending) >= 9 and len(self._pending) >= (size := 9 + int.from_bytes(self._pending[:3], "big")):
            frame, self._pending = self._pending[:size], self._pending[size:]
            if frame[3] == _PING and frame[4] & _ACK:
                with self._changed:
                    self._count += 1
                    self._changed.notify_all()

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Until there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, seconds), f"{self._count} pings"


@pytest.fixture(scope="module")
def lenient(toy_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(toy_models, "--min-ping-seconds", "0") as server:
        yield server


def test_a_client_that_pings_on_a_quiet_stream_is_served(lenient: ServerProcess) -> None:
    often = [("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0), ("grpc.enable_retries", 0)]
    pongs = Pongs()
    with (
        Link(lenient.address, heard=pongs.heard) as link,
        grpc.insecure_channel(link.address, options=often) as channel,
    ):
        messages_to_send: queue.Queue[pb.EncodeStreamRequest | None] = queue.Queue()
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stream = stub.EncodeStream(iter(lambda: messages_to_send.get(), None), timeout=120)
        images = pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="tally", images=tensor(toy_images(1))))
        messages_to_send.put(images)
        next(stream)
        # gRPC forgives two, and ends the connection at the third.
        pongs.wait_for(4)
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
