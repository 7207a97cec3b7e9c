"""A PixelCNN from PyTorch through export to the real server: the served figures are the model's own."""

from __future__ import annotations

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
from running import ServerProcess

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
                if parameter_name.startswith("logits"):
                    parameter.mul_(8).add_(torch.randn_like(parameter), alpha=0.1)
        models[name] = model.eval()
    return models


@pytest.fixture(scope="module")
def images() -> Images:
    levels = np.random.default_rng(2).integers(0, 17, (40, 8, 8, 1))
    return np.round(levels * (255 / 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def client(
    models: dict[str, GatedPixelCNN],
    images: Images,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        write_bundle(model, name=name, models_dir=folder, golden_images=images[:4])
    with ServerProcess(folder) as server, Client(server.address) as client:
        yield client


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
    samples = client.sample(name, 12, seed=5)
    uniforms = torch.from_numpy(uniforms_of_range(5, 0, 12, (8, 8, 1)))
    nothing = torch.zeros((12, 8, 8, 1), dtype=torch.uint8)
    naive, nats = models[name].sample_naive(nothing, nothing.bool(), uniforms, torch.ones(12))
    assert np.array_equal(samples.images, naive.numpy())
    assert samples.log_likelihood is not None
    np.testing.assert_allclose(samples.log_likelihood, nats.numpy(), atol=1e-3, rtol=0)
    np.testing.assert_allclose(client.score(name, samples.images).log_likelihood, nats.numpy(), atol=1e-3, rtol=0)


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
