"""A PixelCNN from PyTorch through export to the real server: the served figures are the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ancestral.bundle.noise import uniforms_of_range
from ancestral_client import Client
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_server.errors import OutOfMemory
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.session import Runtime
from running import ServerProcess
from shared import Shared
from simulation import sampler, samples

Images: TypeAlias = NDArray[np.uint8]

SHAPE = ImageShape(8, 8, 1, 17)


# Of the nets that are served: an undilated one, and one whose vertical layers look up to 4 rows up.
DILATIONS = {"sharp": (1,), "dilated": (2, 4, 1)}


@pytest.fixture(scope="module")
def models() -> dict[str, GatedPixelCNN]:
    models = {}
    for name, dilations in DILATIONS.items():
        torch.manual_seed(1)
        settings = PixelCNNSettings(
            channels=16,
            vertical_layers=4,
            horizontal_layers=2,
            row_dilations=dilations,
            column_dilations=dilations,
        )
        model = GatedPixelCNN(SHAPE, settings)
        with torch.no_grad():
            # Untrained logits are nearly flat; sharp ones make every draw depend on all before it, and leave no ties.
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.startswith("head.logits"):
                    parameter.mul_(8).add_(torch.randn_like(parameter), alpha=0.1)
        models[name] = model.eval()
    return models


@pytest.fixture(scope="module")
def images() -> Images:
    levels = np.random.default_rng(2).integers(0, 17, (40, 8, 8, 1))
    return np.round(levels * (255 / 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(models: dict[str, GatedPixelCNN], images: Images, once: Shared) -> Path:
    def write(folder: Path) -> None:
        for name, model in models.items():
            write_bundle(model, name=name, models_dir=folder, golden_images=images[:4])

    return once("pixelcnn", write)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with ServerProcess(folder) as server, Client(server.address) as client:
        yield client


def naively(
    model: GatedPixelCNN,
    *draws: tuple[int, int],
    given: Images | None = None,
    known: NDArray[np.bool_] | None = None,
) -> tuple[Images, NDArray[np.float32]]:
    """What PyTorch draws, one pass per pixel, for pairs of a seed and how many samples of it: images and nats."""
    uniforms = np.concatenate([uniforms_of_range(seed, 0, count, (8, 8, 1)) for seed, count in draws])
    images, nats = model.sample_naive(
        torch.from_numpy(np.zeros(uniforms.shape, np.uint8) if given is None else given),
        torch.from_numpy(np.zeros(uniforms.shape, np.bool_) if known is None else known),
        torch.from_numpy(uniforms),
        torch.ones(len(uniforms)),
    )
    return images.numpy(), nats.numpy()


@pytest.mark.parametrize("name", DILATIONS)
def test_score_is_the_log_likelihood_that_pytorch_computes(
    name: str, models: dict[str, GatedPixelCNN], images: Images, client: Client
) -> None:
    with torch.no_grad():
        nats = -models[name].negative_log_likelihood(torch.from_numpy(images))["loss"].numpy()
    scores = client.score(name, images)
    np.testing.assert_allclose(scores.log_likelihood, nats, atol=1e-3, rtol=0)
    assert scores.exact


@pytest.mark.parametrize("name", DILATIONS)
def test_served_samples_are_the_naive_ones_and_carry_their_score(
    name: str, models: dict[str, GatedPixelCNN], client: Client
) -> None:
    drawn = client.sample(name, 12, seed=5)
    naive, nats = naively(models[name], (5, 12))
    assert np.array_equal(drawn.images, naive)
    assert drawn.log_likelihood is not None
    np.testing.assert_allclose(drawn.log_likelihood, nats, atol=1e-3, rtol=0)
    np.testing.assert_allclose(client.score(name, drawn.images).log_likelihood, nats, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", DILATIONS)
def test_served_completions_are_the_naive_ones(
    name: str, models: dict[str, GatedPixelCNN], images: Images, client: Client
) -> None:
    given, known = images[:12], np.random.default_rng(3).random((12, 8, 8, 1)) < 0.4
    completed = client.sample(name, 12, seed=6, given=given, known=known)
    naive, nats = naively(models[name], (6, 12), given=given, known=known)
    assert np.array_equal(completed.images, naive)
    assert completed.log_likelihood is not None
    np.testing.assert_allclose(completed.log_likelihood, nats, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "fixed"), [("sharp", False), ("dilated", False), ("dilated", True)])
def test_whoever_begins_late_or_after_others_or_after_a_failure_gets_the_naive_samples(
    name: str, fixed: bool, models: dict[str, GatedPixelCNN], folder: Path
) -> None:
    """By the server's scheduler, on a simulated clock: who shares a run at which row is no matter of chance."""
    bundle = read_bundle(folder / name / "1")
    role = next(role for role in bundle.manifest.roles if role.name == "sample")
    program = OnnxRasterProgram(role, Runtime("cpu", 1).open(bundle.graph(role), on_caller=True), bundle.manifest)
    lane = sampler(program, slots=6, fixed=fixed)
    first, leaver = lane.submit(samples(2, seed=1)), lane.submit(samples(2, seed=2))
    for _ in range(3):
        lane.turn()
    # Beside half-finished ones; then in the place of one who left; then while parts of a row are run again.
    late = lane.submit(samples(1, seed=3))
    lane.turn()
    leaver.cancelled = True
    successor = lane.submit(samples(2, seed=4))
    lane.turn()
    lane.end(lane.begin(), error=OutOfMemory("no room"))
    lane.turn()
    lane.end(lane.begin(), error=RuntimeError("of somebody's"))
    last = lane.submit(samples(5, seed=5))
    lane.work()
    jobs = (first, late, successor, last)
    assert all(lane.outcome(job) is None for job in jobs)
    naive, nats = naively(models[name], *((job.seed, job.rows) for job in jobs))
    assert np.array_equal(np.concatenate([job.images for job in jobs]), naive)
    np.testing.assert_allclose(np.concatenate([job.log_likelihood for job in jobs]), nats, atol=1e-3, rtol=0)


def test_only_what_an_older_server_would_misread_has_a_newer_schema(folder: Path) -> None:
    manifests = {name: json.loads((folder / name / "1" / "bundle.json").read_text()) for name in DILATIONS}
    assert {name: manifest["schema"] for name, manifest in manifests.items()} == {"sharp": 1, "dilated": 2}
    states = {name: manifest["roles"][2]["states"] for name, manifest in manifests.items()}
    assert not any("rows_back" in state for state in states["sharp"])
    assert [state.get("rows_back") for state in states["dilated"]] == [None, 2, 4, None]


@pytest.mark.parametrize("name", DILATIONS)
def test_a_sample_is_bitwise_the_same_alone_and_in_any_company(name: str, client: Client) -> None:
    batch = client.sample(name, 100, seed=9)
    for i in (0, 1, 17, 63, 64, 99):
        alone = client.sample(name, 1, seed=9, first_index=i)
        assert np.array_equal(alone.images[0], batch.images[i])
        assert alone.log_likelihood is not None
        assert batch.log_likelihood is not None
        assert alone.log_likelihood[0] == batch.log_likelihood[i]


def test_temperature_zero_leaves_nothing_to_chance(client: Client) -> None:
    images = client.sample("sharp", 8, seed=1, temperature=0).images
    assert (images == images[0]).all()


def test_features_are_the_mean_of_their_map(images: Images, client: Client) -> None:
    features = client.features("sharp", images, include_map=True)
    assert features.feature_map is not None
    np.testing.assert_allclose(features.features, features.feature_map.mean((1, 2)), atol=1e-5)
    assert client.features("sharp", images).feature_map is None
