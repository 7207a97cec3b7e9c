"""Where the server meets gRPC itself: what ends grpc.aio's loop does not end it, and a call takes the shorter way."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import grpc
import pytest

import messages
import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from running import ServerProcess
from wire import inference, tensor, toy_images


def say(address: str, content: bytes) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(content)
        time.sleep(0.1)


def test_a_method_name_that_is_no_text_ends_no_server_and_no_call(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    name = messages.headers("/ancestral.v1.InferenceService/Encode").replace(b"Encode", b"Enc\xffde")
    attack = messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 5, 1, name)
    with ServerProcess(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        running = stub.Sample.future(pb.SampleRequest(model="tally", count=5000, seed=1), timeout=60)
        while server.metric("grpc_server_started_total", grpc_method="Sample") < 1:
            time.sleep(0.01)
        for attempt in range(3):
            say(server.address, attack)
            reply = stub.Sample(pb.SampleRequest(model="tally", count=1), timeout=60, wait_for_ready=True)
            assert len(reply.images.data) == 12, attempt
        assert len(running.result().images.data) == 5000 * 12
    assert server.process.returncode == 0
    assert any("opening again" in line for line in server.log)


def test_stopping_a_server_that_was_opened_again_is_graceful(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    name = messages.headers("/x").replace(b"/x", b"/\xff")
    with ServerProcess(tmp_path) as server:
        say(server.address, messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 5, 1, name))
        deadline = time.monotonic() + 10
        while not any("opening again" in line for line in server.log):
            assert time.monotonic() < deadline, "it was not noticed"
            time.sleep(0.05)
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
