"""Other families than the VAE and the PixelCNN, served: GAN, autoencoder, and PixelRNNs of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest
import torch

from ancestral.bundle.noise import uniforms_of_range
from ancestral_client import Client
from ancestral_client.errors import AncestralError
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.autoencoder import Autoencoder, AutoencoderSettings
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.gan import GAN, GANSettings
from ancestral_exporter.models.pixelrnn import PixelRNN, PixelRNNSettings
from running import ServerProcess
from shared import Shared

SHAPE = ImageShape(8, 8, 1, 17)
Model: TypeAlias = Autoencoder | GAN | PixelRNN


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    torch.manual_seed(0)
    return {
        "autoencoder": Autoencoder(SHAPE, AutoencoderSettings(latent_size=3, channels=4, features=8)),
        "gan": GAN(SHAPE, GANSettings(latent_size=5, channels=4, features=8)),
        "rows": sharp_pixelrnn("row-lstm"),
        "diagonals": sharp_pixelrnn("diagonal-bilstm"),
    }


def sharp_pixelrnn(layer: Literal["row-lstm", "diagonal-bilstm"]) -> PixelRNN:
    """An untrained net with pronounced preferences: each draw depends on all before it, and there are no ties."""
    model = PixelRNN(SHAPE, PixelRNNSettings(layer, size=6, layers=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.logits"):
                parameter.mul_(8).add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def client(models: dict[str, Model], once: Shared) -> Iterator[Client]:
    def write(folder: Path) -> None:
        for name, model in models.items():
            write_bundle(model, name=name, models_dir=folder, golden_images=np.zeros((2, *SHAPE.hwc), np.uint8))

    with ServerProcess(once("families", write), "--max-queue-ms", "60000") as server, Client(server.address) as client:
        yield client


def test_a_gan_samples_by_seed_whatever_the_company(client: Client) -> None:
    many = client.sample("gan", 40, seed=3).images
    assert many.shape == (40, *SHAPE.hwc)
    assert np.array_equal(client.sample("gan", 40, seed=3).images, many)
    assert len(np.unique(many.reshape(40, -1), axis=0)) > 1
    np.testing.assert_array_equal(client.sample("gan", 5, seed=3, first_index=20).images, many[20:25])
    assert client.features("gan", many).features.shape == (40, 8)


@pytest.mark.parametrize("name", ["rows", "diagonals"])
def test_a_pixelrnn_samples_what_its_slow_sampler_does(name: str, client: Client, models: dict[str, Model]) -> None:
    model = models[name]
    assert isinstance(model, PixelRNN)
    samples = client.sample(name, 70, seed=5)
    uniforms = torch.from_numpy(uniforms_of_range(5, 0, 70, SHAPE.hwc))
    nothing = torch.zeros((70, *SHAPE.hwc), dtype=torch.uint8)
    images, nats = model.sample_by_passes(nothing, nothing.bool(), uniforms, torch.ones(70))
    np.testing.assert_array_equal(samples.images, images.numpy())
    np.testing.assert_allclose(client.score(name, samples.images).log_likelihood, nats.numpy(), atol=1e-3)
    assert samples.log_likelihood is not None
    np.testing.assert_allclose(samples.log_likelihood, nats.numpy(), atol=1e-3)
    alone = client.sample(name, 1, seed=5, first_index=33)
    np.testing.assert_array_equal(alone.images[0], samples.images[33])
    assert client.features(name, samples.images).features.shape == (70, 12)


@pytest.mark.parametrize("name", ["rows", "diagonals"])
def test_a_pixelrnn_completes_images(name: str, client: Client) -> None:
    given = client.sample(name, 4, seed=1).images
    mask = np.zeros(given.shape, np.bool_)
    mask[:, :4] = True
    completed = client.sample(name, 4, seed=2, given=given, known=mask).images
    np.testing.assert_array_equal(completed[:, :4], given[:, :4])
    assert (completed[:, 4:] != given[:, 4:]).any()


def test_an_autoencoder_encodes_and_draws_again(client: Client, models: dict[str, Model]) -> None:
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
