"""A PixelCNN trained for a moment on the digits, from the recipe to the server: served samples are the naive ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ancestral.bundle.noise import uniforms_of_range
from ancestral_client import Client
from ancestral_exporter import data, recipes
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.pixelcnn import GatedPixelCNN
from running import ServerProcess
from shared import Shared

SHAPE = (8, 8, 1)
# Naive sampling runs the whole net for each of 64 pixels.
COUNT = 32
# The recipe's net, but for its size.
SMALL = ["model.channels=24", "model.head_channels=48", "model.vertical_layers=3"]


@dataclass
class Served:
    model: GatedPixelCNN
    client: Client


@pytest.fixture(scope="module")
def trained() -> GatedPixelCNN:
    """The net after 60 steps: far from done, and no longer flat."""
    torch.manual_seed(0)
    digits = data.load(data.DataSettings("digits"))
    model = recipes.find("digits-pixelcnn", SMALL).build(digits.image)
    assert isinstance(model, GatedPixelCNN)
    images = torch.from_numpy(digits.train.images)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        batch = images[torch.randint(len(images), (25,))]
        optimiser.zero_grad()
        torch.autograd.backward(model.negative_log_likelihood(batch)["loss"].mean() / 64)
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def served(trained: GatedPixelCNN, once: Shared) -> Iterator[Served]:
    def write(folder: Path) -> None:
        write_bundle(trained, name="digits", models_dir=folder, golden_images=np.zeros((2, *SHAPE), np.uint8))

    with ServerProcess(once("trained digits", write)) as server, Client(server.address) as client:
        yield Served(trained, client)


def first_difference(model: GatedPixelCNN, got: NDArray[np.uint8], wanted: NDArray[np.uint8], seed: int) -> str:
    """Where two sets of samples of a seed part first, and how near the uniform was to the nearest threshold there."""
    sample, row, column, channel = (int(i) for i in np.argwhere(got != wanted)[0])
    u = uniforms_of_range(seed, sample, 1, SHAPE)[0, row, column, channel]
    levels = torch.from_numpy(wanted[sample : sample + 1].astype(np.float64) * 16 / 255).round().long()
    with torch.no_grad():
        logits = model.level_logits(levels)[0, row, column, channel].double()
    margin = (torch.softmax(logits, -1).cumsum(-1) - float(u)).abs().min()
    return f"sample {sample} differs first at row {row}, column {column}, channel {channel}: |u - p| = {margin:.2e}"


def test_cached_and_naive_sampling_give_the_same_images(served: Served) -> None:
    samples = served.client.sample("digits", COUNT, seed=7)
    uniforms = torch.from_numpy(uniforms_of_range(7, 0, COUNT, SHAPE))
    nothing = torch.zeros((COUNT, *SHAPE), dtype=torch.uint8)
    naive, nats = served.model.sample_naive(nothing, nothing.bool(), uniforms, torch.ones(COUNT))
    wanted = naive.numpy()
    assert np.array_equal(samples.images, wanted), first_difference(served.model, samples.images, wanted, 7)
    assert samples.log_likelihood is not None
    np.testing.assert_allclose(samples.log_likelihood, nats.numpy(), atol=1e-3, rtol=0)


def test_the_report_of_a_difference_names_its_place_and_margin(served: Served) -> None:
    images = served.client.sample("digits", 2, seed=7).images
    other = images.copy()
    other[1, 2, 3, 0] ^= 255
    assert "sample 1 differs first at row 2, column 3, channel 0: |u - p| = " in first_difference(
        served.model, other, images, 7
    )


def test_the_likelihood_of_samples_is_their_score_and_its_mean_the_models_entropy(served: Served) -> None:
    samples = served.client.sample("digits", 1000, seed=1)
    scores = served.client.score("digits", samples.images).log_likelihood
    assert samples.log_likelihood is not None
    np.testing.assert_allclose(samples.log_likelihood, scores, atol=1e-3, rtol=0)
    # The mean of -log p over samples of p estimates p's entropy: two independent estimates agree within their errors.
    other = served.client.sample("digits", 1000, seed=2)
    fresh = served.client.score("digits", other.images).log_likelihood
    error = np.sqrt((samples.log_likelihood.var() + fresh.var()) / 1000)
    assert abs(samples.log_likelihood.mean() - fresh.mean()) < 4 * error
    # Images of pure chance are less likely under the model than its own.
    noise = np.random.default_rng(0).integers(0, 17, (200, *SHAPE)) * 255 // 16
    assert served.client.score("digits", noise.astype(np.uint8)).log_likelihood.mean() < fresh.mean() - 20
