"""Families without a likelihood, served: a GAN's samples by seed, an autoencoder's codes and what is drawn of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ancestral_client import Client
from ancestral_client.errors import AncestralError
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.autoencoder import Autoencoder, AutoencoderSettings
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.gan import GAN, GANSettings
from running import ServerProcess

SHAPE = ImageShape(8, 8, 1, 17)


@pytest.fixture(scope="module")
def models() -> dict[str, Autoencoder | GAN]:
    torch.manual_seed(0)
    return {
        "autoencoder": Autoencoder(SHAPE, AutoencoderSettings(latent_size=3, channels=4, features=8)),
        "gan": GAN(SHAPE, GANSettings(latent_size=5, channels=4, features=8)),
    }


@pytest.fixture(scope="module")
def client(models: dict[str, Autoencoder | GAN], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        write_bundle(model, name=name, models_dir=folder, golden_images=np.zeros((2, *SHAPE.hwc), np.uint8))
    with ServerProcess(folder, "--max-queue-ms", "60000") as server, Client(server.address) as client:
        yield client


def test_a_gan_samples_by_seed_whatever_the_company(client: Client) -> None:
    many = client.sample("gan", 40, seed=3).images
    assert many.shape == (40, *SHAPE.hwc)
    assert np.array_equal(client.sample("gan", 40, seed=3).images, many)
    assert len(np.unique(many.reshape(40, -1), axis=0)) > 1
    np.testing.assert_array_equal(client.sample("gan", 5, seed=3, first_index=20).images, many[20:25])
    assert client.features("gan", many).features.shape == (40, 8)


def test_an_autoencoder_encodes_and_draws_again(client: Client, models: dict[str, Autoencoder | GAN]) -> None:
    model = models["autoencoder"]
    assert isinstance(model, Autoencoder)
    images = np.random.default_rng(0).integers(0, 256, (9, *SHAPE.hwc), dtype=np.uint8)
    codes = client.encode("autoencoder", images).mean
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(codes, expected, atol=1e-4)
    assert client.decode("autoencoder", codes).images.shape == images.shape


def test_what_a_family_cannot_do_is_refused_by_name(client: Client) -> None:
    images = np.zeros((1, *SHAPE.hwc), np.uint8)
    with pytest.raises(AncestralError, match="score"):
        client.score("gan", images)
    with pytest.raises(AncestralError, match="sample"):
        client.sample("autoencoder", 1)
