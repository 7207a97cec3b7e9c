"""What the real server says at its start, and that it ends as it should."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hostile
import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2, model_service_pb2_grpc
from running import COMMAND, PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import inference


def health_of(server: ServerProcess, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address))
    return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status)


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 3}))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("encode.onnx", lambda path: path.write_bytes(path.read_bytes()[:-5]), "truncated"),
        ("encode.onnx", corrupt, "SHA-256"),
        ("sample.onnx", Path.unlink, "is missing"),
        ("bundle.json", newer, "newer"),
    ],
)
def test_a_bad_bundle_is_named_and_the_others_serve(
    tmp_path: Path, file: str, damage: Callable[[Path], object], reason: str
) -> None:
    toybundle.write(tmp_path)
    damage(toybundle.write(tmp_path, "broken") / file)
    with ServerProcess(tmp_path) as server:
        assert health_of(server, "") == health_pb2.HealthCheckResponse.SERVING
        assert health_of(server, "tally") == health_pb2.HealthCheckResponse.SERVING
        assert health_of(server, "broken") == health_pb2.HealthCheckResponse.NOT_SERVING
        assert inference(server).Sample(pb.SampleRequest(model="tally", count=1), timeout=30).images.data
        with pytest.raises(grpc.RpcError, match=reason) as failure:
            inference(server).Sample(pb.SampleRequest(model="broken", count=1), timeout=30)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert file in (failure.value.details() or "")
    (line,) = [json.loads(line) for line in server.log if "bundle refused" in line]
    assert (line["model"], line["file"]) == ("broken", file)
    assert reason in line["reason"]


def test_a_graph_that_never_ends_keeps_nobody_from_being_served_nor_the_server_from_ending(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path / ".made", "endless", graph=hostile.endless)
    with ServerProcess(tmp_path, "--poll-seconds", "0.1") as server:
        (tmp_path / ".made" / "endless").rename(tmp_path / "endless")
        models = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.address))

        def states() -> dict[str, int]:
            return {
                model.name: model.state for model in models.ListModels(model_service_pb2.ListModelsRequest()).models
            }

        until(lambda: "endless" in states())
        assert states() == {
            "endless": model_service_pb2.MODEL_STATE_LOADING,
            "tally": model_service_pb2.MODEL_STATE_SERVING,
        }
        assert inference(server).Sample(pb.SampleRequest(model="tally", count=1), timeout=30).images.data
        # Long before the load would be ended.
        assert server.stop() == 0


def test_a_version_that_answers_wrongly_does_not_serve_and_the_older_one_does(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, version=2, scale=254.0)
    with ServerProcess(tmp_path) as server:
        assert inference(server).Sample(pb.SampleRequest(model="tally", count=1), timeout=30).info.version == 1
        assert health_of(server, "tally") == health_pb2.HealthCheckResponse.SERVING
        assert health_of(server, "tally/2") == health_pb2.HealthCheckResponse.NOT_SERVING
        stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.address))
        model = stub.GetModel(model_service_pb2.GetModelRequest(name="tally", version=2), timeout=60).model
        assert "golden replay differs" in model.reason
        assert "encode.onnx" in model.reason


def test_the_same_call_gives_the_same_bytes_after_a_restart(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    replies = []
    for _ in range(2):
        with ServerProcess(tmp_path, program=COMMAND) as server:
            replies.append(inference(server).Sample(pb.SampleRequest(model="tally", count=16, seed=7), timeout=30))
    assert replies[0].images.data == replies[1].images.data
    assert replies[0].log_likelihood.data == replies[1].log_likelihood.data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_calls_finish_before_the_server_stops(tmp_path: Path, number: signal.Signals) -> None:
    toybundle.write(tmp_path)
    with ServerProcess(tmp_path, *PATIENT, program=COMMAND) as server:
        stub = inference(server)
        stub.Sample(pb.SampleRequest(model="tally", count=1), timeout=30)
        calls = [stub.Sample.future(pb.SampleRequest(model="tally", count=5000, seed=s), timeout=600) for s in range(4)]
        until(lambda: server.metric("grpc_server_started_total", grpc_method="Sample") == 5)
        assert server.stop(number) == 0
        assert [len(call.result().images.data) for call in calls] == [5000 * 12] * 4


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ancestral_server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_port_in_use_is_said(toy_models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        grpc_port = start("--models", str(toy_models), "--device", "cpu", "--port", port, "--metrics-port", "0")
        metrics_port = start("--models", str(toy_models), "--device", "cpu", "--port", "0", "--metrics-port", port)
    assert grpc_port.returncode == metrics_port.returncode == 1
    assert f"127.0.0.1:{port}" in grpc_port.stderr
    assert "--port" in grpc_port.stderr
    assert f"127.0.0.1:{port}" in metrics_port.stderr
    assert "--metrics-port" in metrics_port.stderr
    assert "Traceback" not in grpc_port.stderr + metrics_port.stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_cuda_without_a_gpu_ends_with_the_name_of_the_missing_library(toy_models: Path) -> None:
    result = start("--models", str(toy_models), "--device", "cuda", "--port", "0", "--metrics-port", "0")
    assert result.returncode == 1
    assert re.search(r"--device cuda: no usable GPU: .*lib\w+\.so", result.stderr)
    assert "Traceback" not in result.stderr


def test_wrong_flags_are_said(tmp_path: Path) -> None:
    assert "--models" in start().stderr
    missing = start("--models", str(tmp_path / "nowhere"), "--port", "0", "--metrics-port", "0", "--device", "cpu")
    assert missing.returncode == 1
    assert "no such folder" in missing.stderr
    wrong = start("--models", str(tmp_path), "--port", "70000")
    assert wrong.returncode == 2
    assert "--port" in wrong.stderr
    assert "70000" in wrong.stderr


def test_health_lists_what_it_knows(toy_server: ServerProcess) -> None:
    with grpc.insecure_channel(toy_server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = stub.List(health_pb2.HealthListRequest(), timeout=PATIENCE).statuses
        assert {"", "tally", "tally/1", "ancestral.v1.InferenceService"} <= set(listed)
        for name, status in listed.items():
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE).status == status.status
