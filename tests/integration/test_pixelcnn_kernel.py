"""A PixelCNN's own kernel behind the server's own code: its CPU build, on a GPU that is none."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import json_format

import toybundle
from ancestral.bundle.manifest import MANIFEST, parse
from ancestral.v1 import bundle_pb2
from ancestral_exporter.kernels import on_cpu
from ancestral_exporter.kernels.form import packed_net
from ancestral_exporter.kernels.packing import BLOCKS, THREADS
from ancestral_exporter.models.base import ImageShape
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.version import ModelVersion
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import RasterEndpoint
from ancestral_server.engine.job import RasterJob
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from fakecuda import FakeCuda
from pixelcnns import exported, sharp_pixelcnn

LABELS = 3


def add_kernel(folder: Path) -> None:
    """Give a bundle's sampler the kernel of its net, whose code is its CPU build."""
    manifest = parse((folder / MANIFEST).read_bytes())
    role = next(role for role in manifest.roles if role.name == "sample")
    packed = packed_net(onnx.load(folder / role.graph), role, manifest.image)
    (folder / "kernel.weights").write_bytes(packed.content)
    manifest.files.append(toybundle.listed(folder / "kernel.weights"))
    role.kernel.CopyFrom(bundle_pb2.Kernel(convention=1, weights="kernel.weights", state_bytes=packed.state_bytes))
    for block in BLOCKS[:2]:
        library = on_cpu.build(packed.config(block), folder.parent / f"kernel-{block.samples}.so")
        code = folder / f"kernel-{block.samples}.code"
        code.write_bytes(str(library).encode() + b"\0")
        manifest.files.append(toybundle.listed(code))
        role.kernel.variants.append(
            bundle_pb2.KernelVariant(
                code=code.name,
                target="sm_90",
                entry="paint_row",
                samples=block.samples,
                threads=THREADS,
                shared_bytes=packed.shared_bytes(block),
                scratch_bytes=packed.scratch_bytes(block),
            )
        )
    document = json_format.MessageToDict(manifest, preserving_proto_field_name=True)
    (folder / MANIFEST).write_text(json.dumps(document, indent=2))


def loaded(models: Path, device: str, library: str) -> ModelVersion:
    settings = Settings(models=models, device=device, slots=8, threads=1, max_queue_ms=3_600_000)
    return Loader(settings, Runtime(device, 1, library=library), Metrics("test"), Arrivals()).load("toy", 1)


async def samples(model: ModelVersion) -> list[RasterJob]:
    """Of several calls at once, more than there are slots, of all labels."""
    endpoint = model.endpoints["sample"]
    assert isinstance(endpoint, RasterEndpoint)
    futures = asyncio.get_running_loop().create_future
    jobs = [RasterJob(n, futures(), seed=n, label=n % LABELS, temperature=n % 2) for n in (1, 9, 12, 2, 5)]
    return await asyncio.gather(*(ask(endpoint, job) for job in jobs))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net's bundle in `graphs`, and the same with a kernel in `kernels`."""
    folder = tmp_path_factory.mktemp("models")
    net = sharp_pixelcnn(ImageShape(6, 8, 1, 2), label_count=LABELS, row_dilations=(1, 2))
    exported(net, folder / "graphs")
    shutil.copytree(folder / "graphs", folder / "kernels")
    add_kernel(folder / "kernels" / "toy" / "1")
    return folder


def test_a_kernel_paints_what_its_graph_paints(models: Path, fake_cuda: FakeCuda) -> None:
    graph = loaded(models / "graphs", "cpu", "none")
    kernel = loaded(models / "kernels", "auto", str(fake_cuda.driver))
    try:
        assert [graph.forms["sample"].name, kernel.forms["sample"].name] == ["onnx", "kernel"], kernel.forms
        for one, other in zip(asyncio.run(samples(kernel)), asyncio.run(samples(graph)), strict=True):
            assert np.array_equal(one.images, other.images)
            np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-5, atol=1e-5)
    finally:
        graph.close()
        kernel.close()
