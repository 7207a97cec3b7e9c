"""Where the server meets gRPC itself: no method name ends it, and a call takes the shorter way."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import messages
import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from running import COMMAND, PATIENT, ServerProcess
from waiting import PATIENCE
from wire import inference, tensor, toy_images

NO_RETRIES = ("grpc.enable_retries", 0)

MAIN = "from ancestral_server.__main__ import main; main()"
# What names a method, and is no text (or is text that names none).
NO_TEXT = (b"/ancestral.v1.InferenceService/Enc\xffde", b"/\xff", b"\xc3", b"/\xed\xa0\x80/\xff", b"/nobody/Knows")
# The server as it is with a version of gRPC whose parts `grpc_workarounds.accepting` does not know.
GRPCS_OWN = (
    "-c",
    f"from ancestral_server.rpc.grpc_workarounds import accepting; accepting.known = lambda: False\n{MAIN}",
)

# The server, in a greater hurry with those who connect and say nothing.
HASTY = (
    "-c",
    f"from ancestral_server.rpc import server; server.HANDSHAKE_SECONDS = 0.3\n{MAIN}",
)


def attack(name: bytes) -> bytes:
    """All that a client says who calls a method of that name."""
    block = messages.headers("/x").replace(b"\x02/x", bytes([len(name)]) + name)
    return messages.PREFACE + messages.frame(4, 0, 0, b"") + messages.frame(1, 5, 1, block)


def ended(address: str, content: bytes) -> bool:
    """Say that; whether the server ends the call, stream 1, with trailers, and not with the connection."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection, connection.makefile("rb") as said:
        connection.sendall(content)
        while head := said.read(9):
            length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], head[8]
            said.read(length)
            if kind == 1 and stream == 1 and flags & 1:
                return True
    return False


def test_a_method_name_that_is_no_text_costs_no_call_and_no_connection(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    with ServerProcess(tmp_path) as server, grpc.insecure_channel(server.address, options=[NO_RETRIES]) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        running = stub.Sample.future(pb.SampleRequest(model="tally", count=5000, seed=1), timeout=PATIENCE)
        while server.metric("grpc_server_started_total", grpc_method="Sample") < 1:
            time.sleep(0.01)
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        for name in NO_TEXT * 4:
            assert ended(server.address, attack(name)), name
            # No `wait_for_ready` and no retry: whoever calls now is not to notice.
            reply = stub.Sample(pb.SampleRequest(model="tally", count=1), timeout=PATIENCE)
            assert len(reply.images.data) == 12, name
        assert len(running.result().images.data) == 5000 * 12
        assert set(states) == {grpc.ChannelConnectivity.READY}
        assert server.stop() == 0
    assert not any("again" in line for line in server.log)


def test_a_method_that_is_not_there_is_unimplemented(toy_server: ServerProcess) -> None:
    with grpc.insecure_channel(toy_server.address) as channel:
        for path in ("/ancestral.v1.InferenceService/Nothing", "/nobody/Knows", "/grpc.health.v1.Health/Guess"):
            call: Any = channel.unary_unary(path)
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_grpcs_own_server_is_opened_again_and_ends_gracefully(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    with (
        ServerProcess(tmp_path, program=GRPCS_OWN) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        running = stub.Sample.future(pb.SampleRequest(model="tally", count=5000, seed=1), timeout=PATIENCE)
        while server.metric("grpc_server_started_total", grpc_method="Sample") < 1:
            time.sleep(0.01)
        for attempt in range(3):
            ended(server.address, attack(NO_TEXT[0]))
            while sum("open again" in line for line in server.log) <= attempt:
                time.sleep(0.01)
            # A connection of its own: the others may not have heard yet.
            with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as other:
                reply = inference_service_pb2_grpc.InferenceServiceStub(other).Sample(
                    pb.SampleRequest(model="tally", count=1), timeout=PATIENCE, wait_for_ready=True
                )
            assert len(reply.images.data) == 12, attempt
        assert len(running.result().images.data) == 5000 * 12
        assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        ended(server.address, b"")


def test_who_connects_and_says_nothing_is_sent_away(toy_models: Path) -> None:
    with ServerProcess(toy_models, program=HASTY) as server:
        host, port = server.address.split(":")
        for said in (b"", b"GET / HTTP/1.1\r\n", messages.PREFACE[:10]):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                connection.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(4096):
                        pass


def test_the_bound_on_open_files_is_as_high_as_it_may_be(toy_models: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = ("-c", f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}))\n{MAIN}")
    with ServerProcess(toy_models, program=low) as server:
        assert server.metric("process_max_fds") == (min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536)


def sleeps(pid: int, thread: str) -> int:
    """How often the threads of that name went to sleep, and so were woken."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == thread]
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M) for task in tasks]
    return sum(int(each[1]) for each in found if each is not None)


def test_a_call_passes_through_no_thread_of_grpcs_event_engine(toy_server: ServerProcess) -> None:
    calls, request = 300, pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))
    # One connection: to accept one does wake them.
    stub = inference(toy_server)
    stub.Encode(request, timeout=PATIENCE)
    before = sleeps(toy_server.process.pid, "event_engine")
    # It does exist: the name is right.
    assert before > 0
    for _ in range(calls):
        stub.Encode(request, timeout=PATIENCE)
    assert sleeps(toy_server.process.pid, "event_engine") - before < calls / 2


def test_grpcs_event_engine_still_wakes_a_thread_for_every_call(
    toy_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where `grpc_workarounds.event_engine` may go."""
    monkeypatch.setenv("GRPC_EXPERIMENTS", "")
    calls, request = 100, pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))
    with (
        ServerProcess(toy_models, *PATIENT, program=COMMAND) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stub.Encode(request, timeout=PATIENCE)
        before = sleeps(server.process.pid, "event_engine")
        for _ in range(calls):
            stub.Encode(request, timeout=PATIENCE)
        # Up to three for each.
        assert sleeps(server.process.pid, "event_engine") - before > calls
