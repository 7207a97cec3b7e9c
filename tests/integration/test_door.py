"""Where the server meets gRPC itself: what ends grpc.aio's loop does not end it, and a call takes the shorter way."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

import messages
import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import inference, tensor, toy_images


def say(address: str, content: bytes) -> None:
    """Send it on a connection of its own, until the server has read it all and closed its side too."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while connection.recv(2**16):
                pass


def openings(server: ServerProcess) -> int:
    """How often it opened again."""
    return sum("opening again" in line for line in server.log)


def answers(stub: inference_service_pb2_grpc.InferenceServiceStub) -> bool:
    """Whether the server answers; while it opens again it may refuse a call that comes in on an old connection."""
    try:
        reply = stub.Sample(pb.SampleRequest(model="tally", count=1), timeout=60, wait_for_ready=True)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error  # noqa: PT017
        return False
    return len(reply.images.data) == 12


def test_a_method_name_that_is_no_text_ends_no_server_and_no_call(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    name = messages.headers("/ancestral.v1.InferenceService/Encode").replace(b"Encode", b"Enc\xffde")
    attack = messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 5, 1, name)
    with ServerProcess(tmp_path, *PATIENT) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        running = stub.Sample.future(pb.SampleRequest(model="tally", count=5000, seed=1), timeout=60)
        until(lambda: server.metric("grpc_server_started_total", grpc_method="Sample"))
        for attempt in range(3):
            say(server.address, attack)
            until(lambda attempt=attempt: openings(server) > attempt)  # type: ignore[misc]
            until(lambda: answers(stub))
        assert len(running.result().images.data) == 5000 * 12
    assert server.process.returncode == 0
    assert openings(server) == 3


def test_stopping_a_server_that_was_opened_again_is_graceful(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    name = messages.headers("/x").replace(b"/x", b"/\xff")
    with ServerProcess(tmp_path) as server:
        say(server.address, messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 5, 1, name))
        until(lambda: openings(server))
        assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        say(server.address, b"")


def sleeps(pid: int, thread: str) -> int:
    """How often the threads of that name went to sleep, and so were woken."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == thread]
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M) for task in tasks]
    return sum(int(each[1]) for each in found if each is not None)


def test_a_call_passes_through_no_thread_of_grpcs_event_engine(toy_server: ServerProcess) -> None:
    calls, request = 300, pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))
    # One connection: to accept one does wake them.
    stub = inference(toy_server)
    stub.Encode(request, timeout=60)
    before = sleeps(toy_server.process.pid, "event_engine")
    # It does exist: the name is right.
    assert before > 0
    for _ in range(calls):
        stub.Encode(request, timeout=60)
    # Thrice for each call otherwise.
    assert sleeps(toy_server.process.pid, "event_engine") - before < calls / 2
