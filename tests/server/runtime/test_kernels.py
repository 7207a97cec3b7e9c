"""Kernels on a GPU that is none: which code is taken, what is proven and how, and why the graph serves otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fakecuda
import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import Completion, RasterJob
from ancestral_server.errors import BundleError, DeviceLost, StartupError
from ancestral_server.runtime import session
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.kernels.choice import Kernels
from ancestral_server.runtime.kernels.driver import Driver
from ancestral_server.runtime.kernels.program import KernelProgram
from ancestral_server.runtime.kernels.variants import Device, NoKernel, pick, usable
from ancestral_server.runtime.session import Runtime
from ancestral_server.runtime.watchdog import Watchdog
from fakecuda import FakeCuda
from simulation import sampler, samples
from waiting import until

UNSUPPORTED = (
    "cuModuleLoadDataEx: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222): ptxas fatal: Unsupported .version 9.0 and more"
)
FAILED = "its proof failed: sm_90, 1 samples to a block: "
H200 = Device((9, 0), 132, 232_448)


def kernel(*variants: tuple[str, int, int]) -> bundle_pb2.Kernel:
    """With variants of (target, samples, shared bytes)."""
    each = bundle_pb2.KernelVariant
    return bundle_pb2.Kernel(variants=[each(target=t, samples=s, shared_bytes=b) for t, s, b in variants])


@pytest.mark.parametrize(
    ("device", "has", "taken"),
    [
        (H200, [("sm_80", 1, 0), ("sm_90", 1, 0), ("compute_80", 1, 0)], ["sm_90 1"]),
        (H200, [("sm_80", 1, 0), ("sm_100", 1, 0), ("compute_80", 1, 0), ("compute_90", 1, 0)], ["compute_90 1"]),
        # A generation's later minor versions take its code, its earlier ones do not.
        (Device((8, 6), 84, 10**5), [("sm_80", 1, 0), ("sm_86", 1, 0), ("sm_89", 1, 0)], ["sm_86 1"]),
        (Device((12, 0), 170, 10**5), [("sm_100", 1, 0), ("sm_120", 1, 0)], ["sm_120 1"]),
        (Device((10, 3), 148, 10**5), [("compute_90", 1, 0), ("sm_100", 1, 0), ("sm_90", 1, 0)], ["sm_100 1"]),
        # The best of each number of samples, ascending; less shared memory, fewer samples.
        (H200, [("sm_90", 8, 204_800), ("compute_80", 1, 1), ("sm_90", 2, 2)], ["compute_80 1", "sm_90 2", "sm_90 8"]),
        (Device((8, 9), 128, 101_376), [("sm_80", 4, 106_496), ("sm_80", 2, 53_000)], ["sm_80 2"]),
    ],
)
def test_a_device_takes_the_best_code_that_it_has_room_for(
    device: Device, has: list[tuple[str, int, int]], taken: list[str]
) -> None:
    assert [f"{each.target} {each.samples}" for each in usable(kernel(*has), device)] == taken


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (
            Device((7, 5), 40, 65_536),
            "it has no code for sm_75, which this GPU is: it has compute_80, sm_90",
        ),
        (
            Device((9, 0), 132, 49_152),
            "its blocks need 53,000 bytes of shared memory or more, and have at most 49,152 here",
        ),
    ],
)
def test_a_device_that_takes_none_is_told_what_it_lacks(device: Device, why: str) -> None:
    with pytest.raises(NoKernel) as found:
        usable(kernel(("sm_90", 1, 53_000), ("compute_80", 2, 60_000)), device)
    assert str(found.value) == why


def test_as_few_samples_to_a_block_as_find_a_multiprocessor_each() -> None:
    variants = kernel(*(("sm_90", samples, 0) for samples in (1, 2, 4, 8))).variants
    found = {count: pick(list(variants), count, 132).samples for count in (1, 132, 133, 264, 265, 1024, 1056, 5000)}
    assert found == {1: 1, 132: 1, 133: 2, 264: 2, 265: 4, 1024: 8, 1056: 8, 5000: 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toybundle.write(tmp_path)


def opened(folder: Path, fake: FakeCuda, slots: int = 4, seconds: float = 600, **how: Any) -> KernelProgram:
    """The kernel of a bundle's sampler, as a load opens it."""
    bundle = read_bundle(folder)
    role = next(role for role in bundle.manifest.roles if role.name == "sample")
    kernels = Kernels(**({"library": str(fake.driver)} | how))
    golden = bundle.contents[bundle.manifest.golden.path]
    return kernels.program(role, bundle.manifest, bundle.contents, golden, slots=slots, end=time.monotonic() + seconds)


@pytest.fixture
def program(folder: Path, fake_cuda: FakeCuda) -> Iterator[KernelProgram]:
    program = opened(fakecuda.add_kernel(folder, fake_cuda), fake_cuda)
    yield program
    program.close()


def right(job: RasterJob) -> bool:
    images, likelihood = toybundle.paint(uniforms_of_range(job.seed, job.first_index, job.rows, (4, 3, 1)))
    return np.array_equal(job.images, images) and np.allclose(job.log_likelihood, likelihood, rtol=1e-6)


def test_samples_of_a_kernel_are_their_own_whoever_comes_and_goes(program: KernelProgram) -> None:
    lane = sampler(program)
    jobs = []
    for seed in range(12):
        jobs.append(lane.submit(samples(seed % 4 + 1, seed=seed)))
        lane.turn()
        if seed % 5 == 4:
            jobs.pop().cancelled = True
    lane.work()
    assert all(lane.outcome(job) is None and right(job) for job in jobs)


def test_a_kernel_keeps_what_is_given(program: KernelProgram) -> None:

    lane = sampler(program)
    given = np.full((1, 4, 3, 1), 85, np.uint8)
    known = np.zeros((1, 4, 3, 1), np.bool_)
    known[:, 1:3] = True
    kept, free = samples(3, seed=5), samples(5, seed=6)
    kept.completion = Completion(given, known)
    lane.submit(kept)
    lane.submit(free)
    lane.work()
    assert (kept.images[:, 1:3] == 85).all()
    # Its top row is that of a free one; and whoever comes into its slot is free.
    images, _ = toybundle.paint(uniforms_of_range(5, 0, 3, (4, 3, 1)))
    assert np.array_equal(kept.images[:, 0], images[:, 0])
    assert right(free)


def test_a_program_gives_back_what_it_took(folder: Path, fake_cuda: FakeCuda) -> None:
    before = fake_cuda.free_bytes()
    fakecuda.add_kernel(folder, fake_cuda)
    for _ in range(3):
        program = opened(folder, fake_cuda)
        assert fake_cuda.free_bytes() == before - program.needed_bytes(4)
        program.close()
        program.close()
        assert fake_cuda.free_bytes() == before


@pytest.mark.parametrize(
    ("how", "environment", "why"),
    [
        ({"kernels": "off"}, {}, "--kernels off"),
        ({"index": None}, {}, "--device cpu"),
        ({"library": "libnot-there.so.1"}, {}, "there is no usable GPU: libnot-there.so.1: cannot open shared object"),
        ({"library": "libm.so.6"}, {}, "there is no usable GPU: libm.so.6: the driver is too old, it has no cuG"),
        ({}, {"FAKE_CUDA_DEVICES": "0"}, "there is no usable GPU: cuInit: CUDA_ERROR_NO_DEVICE (100)"),
        ({"index": 2}, {"FAKE_CUDA_DEVICES": "2"}, "there is no device 2: the driver has cuda:0 (no GPU, a stand-in)"),
        ({}, {"FAKE_CUDA_CAPABILITY": "75"}, "it has no code for sm_75, which this GPU is: it has compute_80, sm_90"),
        ({}, {"FAKE_CUDA_SHARED": "1000"}, "its blocks need 1,024 bytes of shared memory or more, and have at most 1,"),
        ({}, {"FAKE_CUDA_VERSION": "12040"}, UNSUPPORTED + " on no GPU, a stand-in, sm_90, driver of CUDA 12."),
        ({"slots": 4096}, {"FAKE_CUDA_MEMORY": "100000"}, "the device's memory is too little: "),
        ({"seconds": 0.0}, {}, "its proof did not end within 0 s"),
    ],
)  # fmt: skip
def test_why_the_graph_serves(
    folder: Path,
    fake_cuda: FakeCuda,
    how: dict[str, Any],
    environment: dict[str, str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fakecuda.add_kernel(folder, fake_cuda)
    before = fake_cuda.free_bytes()
    with pytest.raises(NoKernel) as found:
        opened(folder, fake_cuda, **how)
    assert why in str(found.value)
    assert "\n" not in str(found.value)
    assert fake_cuda.free_bytes() == before


def test_on_a_gpu_for_one_process_alone_no_kernel_is_proven_and_it_is_said_why(
    folder: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute mode EXCLUSIVE_PROCESS: the proof's own process gets none of it."""
    monkeypatch.setenv("FAKE_CUDA_OWNER", str(os.getpid()))
    fakecuda.add_kernel(folder, fake_cuda)
    with pytest.raises(NoKernel) as found:
        opened(folder, fake_cuda)
    assert str(found.value) == "its proof failed: cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE (46)"


@pytest.mark.parametrize(
    ("how", "seconds", "why"),
    [
        ("w", 600, FAILED + "sample.onnx: role sample: the golden replay differs: row: "),
        ("b", 600, FAILED + "MEANING_LOG_LIKELIHOOD differs in its bytes between 3 samples and 2 of them"),
        ("c", 600, "its proof crashed, SIGSEGV"),
        # Half of the time is the proof's.
        ("h", 4, "its proof did not end within "),
    ],
)  # fmt: skip
def test_a_kernel_whose_proof_fails_does_not_serve(
    folder: Path, fake_cuda: FakeCuda, how: str, seconds: float, why: str
) -> None:
    fakecuda.add_kernel(folder, fake_cuda, how)
    with pytest.raises(NoKernel) as found:
        opened(folder, fake_cuda, seconds=seconds)
    assert str(found.value).startswith(why)


def test_a_convention_of_the_future_is_no_fault(folder: Path, fake_cuda: FakeCuda) -> None:
    fakecuda.add_kernel(folder, fake_cuda, convention=2)
    with pytest.raises(NoKernel, match="its convention is 2, and 1 is known here: update Ancestral"):
        opened(folder, fake_cuda)


def test_a_kernel_that_was_changed_is_refused(folder: Path, fake_cuda: FakeCuda) -> None:
    fakecuda.add_kernel(folder, fake_cuda)
    code = folder / "kernel.code"
    code.write_bytes(code.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"kernel\.code: has SHA-256 [0-9a-f]+, the manifest says"):
        read_bundle(folder)


def test_a_row_that_never_ends_has_lost_the_device(folder: Path, fake_cuda: FakeCuda) -> None:
    bundle = read_bundle(fakecuda.add_kernel(folder, fake_cuda, "h"))
    role = bundle.manifest.roles[2]
    told: list[DeviceLost] = []
    # Not proven: it would not be let in.
    program = KernelProgram(
        role,
        bundle.manifest,
        Driver(library=str(fake_cuda.driver)),
        role.kernel.variants[:1],
        bundle.contents,
        1,
        lost=told.append,
        row_seconds=0.0,
    )
    painting = program.painting(1)
    painting.place(np.arange(1), {})
    painting.begin_row(np.zeros(1, np.int64), [1])
    until(lambda: told)
    assert "a row of a kernel does not end (--load-seconds)" in str(told[0])


def test_a_gpu_that_is_not_there_is_named_with_those_that_are(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "cuda_problem", lambda: None)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    library = str(fake_cuda.driver)
    assert Runtime("cuda:1", 1, library=library).device == "cuda:1"
    assert Runtime("auto", 1, library=library).device == "cuda"
    with pytest.raises(StartupError) as found:
        Runtime("cuda:2", 1, library=library)
    assert str(found.value) == (
        "--device cuda:2: no usable GPU: there is no device 2: the driver has cuda:0 (no GPU, a stand-in), "
        "cuda:1 (no GPU, a stand-in)"
    )
    for asked in ("cuda:all", "cuda:0,cuda:1"):
        assert [each.device for each in session.runtimes(asked, 1, library=library)] == ["cuda:0", "cuda:1"]
    assert [each.device for each in session.runtimes("cpu", 1)] == ["cpu"]
    with pytest.raises(StartupError, match="--device cuda:1,cuda:2: no usable GPU: there is no device 2: the driver"):
        session.runtimes("cuda:1,cuda:2", 1, library=library)
    monkeypatch.setenv("FAKE_CUDA_VERSION", "11080")
    assert Runtime("auto", 1, library=library).device == "cpu"
    with pytest.raises(
        StartupError, match=r"the driver is too old: onnxruntime is of CUDA 1\d\.\d, and this is no GPU"
    ):
        Runtime("cuda", 1, library=library)


def test_a_row_that_nobody_waited_for_is_not_overdue_once_its_program_is_closed(
    folder: Path, fake_cuda: FakeCuda
) -> None:
    """As when a model is unloaded while a sample is painted whose caller has left."""
    bundle = read_bundle(fakecuda.add_kernel(folder, fake_cuda))
    role = bundle.manifest.roles[2]
    watchdog = Watchdog()
    program = KernelProgram(
        role,
        bundle.manifest,
        Driver(library=str(fake_cuda.driver)),
        role.kernel.variants[:1],
        bundle.contents,
        1,
        watchdog=watchdog,
    )
    painting = program.painting(1)
    painting.place(np.arange(1), {})
    painting.begin_row(np.zeros(1, np.int64), [1])
    assert watchdog.watching
    program.close()
    assert not watchdog.watching


def test_on_a_thread_of_another_gpu_a_session_runs_on_its_own(
    folder: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime works on the one that the thread is on."""
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    gpus = [Driver(index, str(fake_cuda.driver)) for index in range(2)]
    opened = Runtime("cpu", 1).open(folder / "encode.onnx")
    inputs = {"image": np.zeros((1, 4, 3, 1), np.uint8)}
    gpus[0].enter()
    session.Session(opened._session, gpu=gpus[1]).run(["code"], inputs)
    assert fake_cuda.current() == 1


@pytest.mark.parametrize("number", [214, 226, 700, 702, 709, 715, 719, 810])
def test_a_run_that_has_cost_the_gpu_is_known_as_such(number: int) -> None:
    told: list[DeviceLost] = []

    class Lost:
        """A session whose GPU has failed, in onnxruntime's words."""

        _sess = property(lambda self: self)

        def run(self, *_: object) -> None:
            raise RuntimeError(
                f"/onnxruntime/cuda_call.cc:129 std::conditional_t<THRW, void, Status> CudaCall(...) CUDA failure "
                f"{number}: an illegal memory access was encountered ; GPU=0 ; hostname=h ; file=/f.cc ; line=1 ; "
                "expr=cudaGetLastError(); "
            )

        def get_inputs(self) -> list[object]:
            return []

        get_outputs = get_inputs

    with pytest.raises(DeviceLost, match=f"CUDA failure {number}: an illegal memory access"):
        session.Session(Lost(), lost=told.append).run([], {})
    assert len(told) == 1
