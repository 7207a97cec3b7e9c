"""Kernels behind the real server, on a GPU that is none: see `fakecuda`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import fakecuda
import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from fakecuda import FakeCuda
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import array

DEPLOY = Path(__file__).parents[2] / "deploy"
AUTO = ("--device", "auto", *PATIENT)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, fake_cuda: FakeCuda) -> Path:
    """`right` with a kernel that is, `wrong` with one that is not, `plain` with none."""
    models = tmp_path_factory.mktemp("models")
    fakecuda.add_kernel(toybundle.write(models, "right"), fake_cuda)
    fakecuda.add_kernel(toybundle.write(models, "wrong"), fake_cuda, "w")
    toybundle.write(models, "plain")
    return models


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, fake_cuda: FakeCuda) -> Path:
    """`right` alone, for servers of their own."""
    models = tmp_path_factory.mktemp("models")
    fakecuda.add_kernel(toybundle.write(models, "right"), fake_cuda)
    return models


@pytest.fixture(scope="module")
def server(models: Path, fake_cuda: FakeCuda) -> Iterator[ServerProcess]:
    with ServerProcess(models, *AUTO, environment=fake_cuda.environment) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def sample(channel: grpc.Channel, model: str, count: int, seed: int) -> pb.SampleResponse:
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    return stub.Sample(pb.SampleRequest(model=model, count=count, seed=seed), timeout=PATIENCE)


def check(reply: pb.SampleResponse, count: int, seed: int) -> None:
    images, likelihood = toybundle.paint(uniforms_of_range(seed, 0, count, (4, 3, 1)))
    assert np.array_equal(array(reply.images), images)
    np.testing.assert_allclose(array(reply.log_likelihood), likelihood, rtol=1e-5)


def forms(channel: grpc.Channel, model: str) -> list[tuple[str, str, str]]:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    found = stub.GetModel(model_service_pb2.GetModelRequest(name=model), timeout=PATIENCE).model
    return [(form.role, form.form, form.reason) for form in found.forms]


def test_what_runs_a_role_is_told_and_why(server: ServerProcess, channel: grpc.Channel) -> None:
    assert forms(channel, "right") == [("sample", "kernel", "")]
    assert forms(channel, "plain") == [("sample", "onnx", "")]
    ((role, form, reason),) = forms(channel, "wrong")
    assert (role, form) == ("sample", "onnx")
    assert reason.startswith("its proof failed: sm_90, 1 samples to a block: sample.onnx: role sample: ")
    for model, form in (("right", "kernel"), ("plain", "onnx"), ("wrong", "onnx")):
        assert server.metric("ancestral_role_form", model=model, role="sample", form=form) == 1
        assert server.metric("ancestral_role_form", model=model) == 1
    assert any("the graph serves, not the kernel" in line and "wrong" in line for line in server.log)


@pytest.mark.parametrize("model", ["right", "wrong", "plain"])
def test_whatever_runs_it_a_seed_gives_its_images(channel: grpc.Channel, model: str) -> None:
    check(sample(channel, model, 100, seed=7), 100, seed=7)


def test_many_callers_at_once_get_their_own(channel: grpc.Channel) -> None:
    """More than there are slots."""
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    calls = {
        (count, seed): stub.Sample.future(pb.SampleRequest(model="right", count=count, seed=seed), timeout=PATIENCE)
        for seed, count in enumerate([1, 500, 3, 64, 1, 1, 200, 7] * 4)
    }
    for (count, seed), call in calls.items():
        check(call.result(), count, seed)


def test_a_reload_under_load_loses_no_call(channel: grpc.Channel, server: ServerProcess) -> None:
    over = threading.Event()
    failed: list[BaseException] = []

    def call() -> None:
        seed = 0
        try:
            while not over.is_set():
                seed += 1
                check(sample(channel, "right", 90, seed), 90, seed)
        except (grpc.RpcError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        for _ in range(2):
            stub.LoadModel(model_service_pb2.LoadModelRequest(name="right"), timeout=PATIENCE)
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not failed
    assert forms(channel, "right") == [("sample", "kernel", "")]


def test_too_much_is_refused_with_the_delay_after_which_it_fits(right: Path, fake_cuda: FakeCuda) -> None:
    with (
        ServerProcess(
            right,
            *("--device", "auto", "--max-queued-calls", "1", "--slots", "1"),
            environment=fake_cuda.environment,
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        calls = [stub.Sample.future(pb.SampleRequest(model="right", count=300, seed=1)) for _ in range(8)]
        for call in calls:
            call.exception(PATIENCE)
        assert {call.code() for call in calls} == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_a_fault_is_told_to_the_callers_and_ends_the_server(right: Path, fake_cuda: FakeCuda, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    environment = {**fake_cuda.environment, "FAKE_CUDA_FAULT": str(fault)}
    with (
        ServerProcess(right, *AUTO, environment=environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        check(sample(channel, "right", 3, seed=1), 3, seed=1)
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="right"))
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        fault.touch()
        calls = inference_service_pb2_grpc.InferenceServiceStub(channel)
        asked = [calls.Sample.future(pb.SampleRequest(model="right", count=n, seed=1)) for n in (1, 70, 500)]
        for call in asked:
            assert call.exception(PATIENCE) is not None
            assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert any("CUDA_ERROR_ILLEGAL_ADDRESS (700)" in (call.details() or "") for call in asked)
        try:
            said = [answer.status for answer in health]
        except grpc.RpcError:
            said = []
        assert health_pb2.HealthCheckResponse.SERVING not in said
        assert server.process.wait(PATIENCE) == 3
        until(lambda: any("the GPU failed while it served" in line for line in server.log))


def test_all_that_is_watched_of_a_gpu_is_in_a_scrape(server: ServerProcess) -> None:
    watched = {
        name
        for folder in ("grafana", "prometheus", "runbooks")
        for path in (DEPLOY / folder).rglob("*.*")
        for name in re.findall(r"ancestral_gpu_\w+", path.read_text())
    }
    assert len(watched) == 7
    # What hangs, as the library does the first time on a busy machine, is asked again.
    until(lambda: server.metric("ancestral_gpu_up", gpu="0") == 1)
    text = server.metrics()
    assert {
        name for name in watched if f'\n{name}{{gpu="0"' in text or f'\n{name}{{driver="580.0",gpu="0"' in text
    } == watched


def test_with_kernels_off_no_code_of_a_model_is_run(right: Path, fake_cuda: FakeCuda) -> None:
    flags = (*AUTO, "--kernels", "off")
    with (
        ServerProcess(right, *flags, environment=fake_cuda.environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert forms(channel, "right") == [("sample", "onnx", "--kernels off")]
        check(sample(channel, "right", 5, seed=2), 5, seed=2)
