"""Several server processes behind one port: one service to its callers, and none is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from running import ServerProcess
from waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Else all channels of this process to the same address share one connection.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
REQUEST = pb.SampleRequest(model="tally", count=5, seed=3)


@pytest.fixture
def server(toy_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(toy_models, "--processes", "2", "--threads", "2") as server:
        yield server


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answer(address: str) -> tuple[str, bytes]:
    """Which process answered a call on a connection of its own, by the ids that it gives, and the pixels."""
    with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
        reply = inference_service_pb2_grpc.InferenceServiceStub(channel).Sample(
            REQUEST, wait_for_ready=True, timeout=PATIENCE
        )
    return reply.info.request_id[:16], reply.images.data


def both_answer(address: str) -> set[bytes]:
    """Ask until two processes have answered; what they painted."""
    found: dict[str, bytes] = {}

    def asked() -> bool:
        found.update([answer(address)])
        return len(found) == 2

    until(asked)
    return set(found.values())


def test_connections_are_dealt_out_and_all_answer_alike(server: ServerProcess) -> None:
    assert len(both_answer(server.address)) == 1
    until(lambda: sum("serving" in line for line in server.log) >= 2)


def test_a_stop_ends_all(server: ServerProcess) -> None:
    pids = children(server.process.pid)
    assert len(pids) == 2
    both_answer(server.address)
    assert server.stop() == 0
    assert not any(map(alive, pids))


def test_ctrl_c_ends_all_once(server: ServerProcess) -> None:
    pids = children(server.process.pid)
    both_answer(server.address)
    assert server.stop(signal.SIGINT) == 0
    assert not any(map(alive, pids))


def test_a_process_that_dies_is_replaced(server: ServerProcess) -> None:
    both_answer(server.address)
    gone, _ = children(server.process.pid)
    os.kill(gone, signal.SIGKILL)
    until(lambda: len(pids := children(server.process.pid)) == 2 and gone not in pids)
    assert len(both_answer(server.address)) == 1
    assert any("starting another" in line for line in server.log)


def test_none_outlives_the_first_process(toy_models: Path) -> None:
    with ServerProcess(toy_models, "--processes", "2") as server:
        pids = children(server.process.pid)
        both_answer(server.address)
        server.process.kill()
        until(lambda: not any(map(alive, pids)))
        assert server.process.wait(PATIENCE) == -signal.SIGKILL


def test_models_change_by_their_folder_and_not_by_a_call(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        others = oip_grpc.GRPCInferenceServiceStub(channel)
        for call in (
            lambda: stub.LoadModel(model_service_pb2.LoadModelRequest(name="tally")),
            lambda: stub.UnloadModel(model_service_pb2.UnloadModelRequest(name="tally")),
            lambda: others.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="tally")),
            lambda: others.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="tally")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            status = rpc_status.from_call(caught.value)
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.reason == "PORT_SHARED"
            assert "folder of models" in status.message


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--port", "TAKEN"], 1, "cannot listen on 127.0.0.1:TAKEN"),
        (["--port", "0", "--metrics-port", "65535"], 2, "--processes: needs the ports 65535 to 65536 for metrics"),
        (["--port", "0", "--processes", "0"], 2, "--processes: Input should be greater than or equal to 1"),
    ],
)
def test_what_cannot_start_is_said_and_ends_all(
    toy_models: Path, server: ServerProcess, flags: list[str], code: int, said: str
) -> None:
    port = server.address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "ancestral_server", "--models", str(toy_models), "--device", "cpu"]
    command += ["--metrics-port", "0", "--processes", "2", *(flag.replace("TAKEN", port) for flag in flags)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == code
    assert re.search(re.escape(said.replace("TAKEN", port)), ended.stderr)
