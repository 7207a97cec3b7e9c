"""The real server on two GPUs that are none: see `fakecuda`. Kernels run there. Graphs cannot, since onnxruntime wants
GPUs that are some: they run on the CPU, each of them twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import fakecuda
import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral_server.catalog.loader import Loader
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from fakecuda import FakeCuda
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import array, tensor, toy_images

# As a server is begun, but for its graphs.
ON_TWO = """
from ancestral_server import app
from ancestral_server.__main__ import main
from ancestral_server.runtime.session import Runtime

class Half(Runtime):
    def open(self, graph, **how):
        return super().open(graph, **{**how, "on": "cpu"})

def runtimes(device, threads, *, run_seconds):
    made = [Half("auto", threads, run_seconds=run_seconds) for _ in range(2)]
    for number, each in enumerate(made):
        each.device, each.gpu = f"cuda:{number}", number
    return made

app.runtimes = runtimes
main()
"""
BOTH = "cuda:0,cuda:1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, fake_cuda: FakeCuda) -> Path:
    models = tmp_path_factory.mktemp("models")
    fakecuda.add_kernel(toybundle.write(models), fake_cuda)
    return models


class Two:
    """A server on two GPUs, and files by which they hold and fail."""

    def __init__(self, models: Path, fake: FakeCuda, folder: Path, **more: str) -> None:
        self.hold, self.fault = folder / "hold", folder / "fault"
        (folder / "server.py").write_text(ON_TWO)
        environment = {
            **fake.environment,
            "FAKE_CUDA_DEVICES": "2",
            "FAKE_CUDA_HOLD": str(self.hold),
            "FAKE_CUDA_FAULT": str(self.fault),
            **more,
        }
        program = (str(folder / "server.py"),)
        self.server = ServerProcess(models, "--slots", "4", *PATIENT, program=program, environment=environment)
        self.channel = grpc.insecure_channel(self.server.address)
        self.calls = inference_service_pb2_grpc.InferenceServiceStub(self.channel)

    def sample(self, count: int, seed: int) -> grpc.Future[pb.SampleResponse]:
        return self.calls.Sample.future(pb.SampleRequest(model="tally", count=count, seed=seed), timeout=PATIENCE)

    def form(self) -> tuple[str, str, str]:
        stub = model_service_pb2_grpc.ModelServiceStub(self.channel)
        model = stub.GetModel(model_service_pb2.GetModelRequest(name="tally"), timeout=PATIENCE).model
        assert model.device == BOTH
        (form,) = model.forms
        return form.form, form.device, form.reason

    def has(self, *images: float) -> None:
        """Wait until the GPUs have so many images to do."""
        wanted = {f"cuda:{number}": each for number, each in enumerate(images)}
        metric = self.server.metric
        until(lambda: {name: metric("ancestral_device_images", device=name) for name in wanted} == wanted)

    def hold_one_on_each(self) -> tuple[grpc.Future[pb.SampleResponse], grpc.Future[pb.SampleResponse]]:
        """Calls of 3 and of 9 images that go on, on one GPU each."""
        self.hold.touch()
        first = self.sample(3, seed=1)
        self.has(3, 0)
        second = self.sample(9, seed=2)
        self.has(3, 9)
        return first, second


def check(reply: pb.SampleResponse, count: int, seed: int) -> None:
    images, likelihood = toybundle.paint(uniforms_of_range(seed, 0, count, (4, 3, 1)))
    assert np.array_equal(array(reply.images), images)
    np.testing.assert_allclose(array(reply.log_likelihood), likelihood, rtol=1e-5)


@pytest.fixture(scope="module")
def two(models: Path, fake_cuda: FakeCuda, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    two = Two(models, fake_cuda, tmp_path_factory.mktemp("two"))
    with two.server, two.channel:
        yield two


def test_each_call_goes_to_the_gpu_that_has_least_to_do_and_a_seed_gives_its_images_on_any(two: Two) -> None:
    assert two.form() == ("kernel", BOTH, "")
    first, second = two.hold_one_on_each()
    third = two.sample(2, seed=3)
    two.has(5, 9)
    two.hold.unlink()
    for call, count, seed in ((first, 3, 1), (second, 9, 2), (third, 2, 3)):
        check(call.result(), count, seed)
    two.has(0, 0)
    # Both have slots, and Prometheus sees one role.
    assert two.server.metric("ancestral_slots", role="sample") == 8
    assert two.server.metric("ancestral_slots_in_use", role="sample") == 0
    assert two.server.metric("ancestral_images_total", role="sample") == 14


def test_all_roles_are_there_and_streams_too(two: Two) -> None:
    images = toy_images(5)
    reply = two.calls.Encode(pb.EncodeRequest(model="tally", images=tensor(images)), timeout=PATIENCE)
    asked = [
        pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="tally", images=tensor(images[i : i + 1])))
        for i in range(5)
    ]
    parts = [array(each.encode.mean) for each in two.calls.EncodeStream(iter(asked), timeout=PATIENCE)]
    assert np.array_equal(np.concatenate(parts), array(reply.mean))


def test_a_gpu_that_fails_ends_the_server_whatever_the_other_does(
    models: Path, fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    two = Two(models, fake_cuda, tmp_path)
    with two.server, two.channel:
        first, second = two.hold_one_on_each()
        two.fault.write_text("1")
        two.hold.unlink()
        assert isinstance(error := second.exception(PATIENCE), grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        # The other's is answered, rightly or not at all.
        if first.exception(PATIENCE) is None:
            check(first.result(), 3, 1)
        assert two.server.process.wait(PATIENCE) == 3
        until(lambda: any("CUDA_ERROR_ILLEGAL_ADDRESS" in line for line in two.server.log))


def test_where_a_kernel_may_not_serve_on_one_gpu_the_graph_serves_on_all(
    models: Path, fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    two = Two(models, fake_cuda, tmp_path, FAKE_CUDA_FULL="1")
    with two.server, two.channel:
        form, device, reason = two.form()
        assert (form, device) == ("onnx", BOTH)
        assert reason.startswith("cuda:1: its proof failed: the device's memory is too little: ")
        calls = {count: two.sample(count, seed=count) for count in (1, 5, 2)}
        for count, call in calls.items():
            check(call.result(), count, count)


def test_what_each_gpu_holds_of_a_version_is_given_back(
    models: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    runtimes = [Runtime("auto", 1, library=str(fake_cuda.driver)) for _ in range(2)]
    runtimes[1].gpu = 1
    before = [fake_cuda.free_bytes(number) for number in range(2)]
    settings = Settings(models=models, slots=4, threads=1)
    loader = Loader(settings, runtimes[0], Metrics("test"), Arrivals(), others=runtimes[1:])
    model = loader.load("tally", 1)
    assert model.serving, model.problem
    took = [was - fake_cuda.free_bytes(number) for number, was in enumerate(before)]
    assert took[0] == took[1] > 0
    model.close()
    assert [fake_cuda.free_bytes(number) for number in range(2)] == before
