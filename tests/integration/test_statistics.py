"""A model small enough to enumerate: its samples follow its distribution."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN
from ancestral_server.engine.endpoint import RasterEndpoint
from ancestral_server.engine.job import Completion, RasterJob
from ancestral_server.rpc.asking import ask
from pixelcnns import exported, raster_lane, sharp_pixelcnn
from shared import Shared

SAMPLES = 50_000
SIDE = 3
# Every image of 3×3 bits, [512,3,3,1] levels.
EVERY = np.array(list(itertools.product((0, 1), repeat=SIDE * SIDE))).reshape(-1, SIDE, SIDE, 1)


@pytest.fixture(scope="module")
def model() -> GatedPixelCNN:
    return sharp_pixelcnn(ImageShape(SIDE, SIDE, 1, 2), seed=3, sharpness=2.0)


@pytest.fixture(scope="module")
def lane(model: GatedPixelCNN, once: Shared) -> Iterator[RasterEndpoint]:
    models = once("statistics", lambda folder: exported(model, folder))
    with raster_lane(models / "toy" / "1", slots=512, workers=1) as lane:
        yield lane


def draw(
    lane: RasterEndpoint, temperature: float = 1.0, completion: Completion | None = None, count: int = SAMPLES
) -> RasterJob:
    async def work() -> RasterJob:
        future = asyncio.get_running_loop().create_future()
        return await ask(
            lane, RasterJob(rows=count, future=future, seed=11, temperature=temperature, completion=completion)
        )

    return asyncio.run(work())


def probabilities(model: GatedPixelCNN, temperature: float, known: np.ndarray | None = None) -> np.ndarray:
    """Of every image [512]: the product over its free pixels of their conditional probabilities."""
    with torch.no_grad():
        logits = model.level_logits(torch.from_numpy(EVERY)).double() / temperature
    scores = torch.log_softmax(logits, dim=-1).gather(-1, torch.from_numpy(EVERY)[..., None])[..., 0].numpy()
    if known is not None:
        scores = np.where(known, 0.0, scores)
    return np.asarray(np.exp(scores.reshape(len(EVERY), -1).sum(1)))


def counts(images: np.ndarray) -> np.ndarray:
    """How often each image of EVERY occurs among [N,3,3,1] bytes."""
    code = (images.reshape(len(images), -1) > 0) @ (1 << np.arange(SIDE * SIDE)[::-1])
    return np.bincount(code, minlength=len(EVERY))


def p_value(seen: np.ndarray, expected: np.ndarray) -> float:
    """Of Pearson's chi-square; images that are expected fewer than 5 times are counted as one."""
    rare = expected < 5
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return float(stats.chisquare(seen, expected * (seen.sum() / expected.sum())).pvalue)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_follow_the_models_distribution(lane: RasterEndpoint, model: GatedPixelCNN, temperature: float) -> None:
    exact = probabilities(model, temperature)
    assert exact.sum() == pytest.approx(1)
    seen = counts(draw(lane, temperature).images)
    assert p_value(seen, exact * SAMPLES) > 1e-4
    # The test can tell: samples of another temperature are rejected.
    other = probabilities(model, 1.7 - temperature)
    assert p_value(seen, other * SAMPLES) < 1e-9


def test_completions_follow_the_conditional_distribution(lane: RasterEndpoint, model: GatedPixelCNN) -> None:
    known = np.zeros((SIDE, SIDE, 1), bool)
    known[0, 1], known[1, 1], known[2, 0] = True, True, True
    given = np.full((SIDE, SIDE, 1), 0, np.uint8)
    given[1, 1] = 255
    kept = Completion(given[None], known[None])
    matches = (given == EVERY * 255)[:, known].all(1)
    exact = np.where(matches, probabilities(model, 1.0, known), 0)
    assert exact.sum() == pytest.approx(1)
    job = draw(lane, completion=kept)
    seen = counts(job.images)
    assert seen[~matches].sum() == 0
    assert p_value(seen[matches], exact[matches] * SAMPLES) > 1e-4
    # The likelihood that comes with a completion is that of its free pixels.
    code = (job.images[:100].reshape(100, -1) > 0) @ (1 << np.arange(SIDE * SIDE)[::-1])
    np.testing.assert_allclose(job.log_likelihood[:100], np.log(exact[code]), atol=1e-4)


def test_temperature_zero_gives_the_most_likely_value_of_each_pixel(lane: RasterEndpoint, model: GatedPixelCNN) -> None:
    images = draw(lane, temperature=0.0, count=1000).images
    assert (images == images[0]).all()
    levels = torch.from_numpy((images[:1] > 0).astype(np.int64))
    with torch.no_grad():
        assert torch.equal(model.level_logits(levels).argmax(-1), levels)
