"""Tiles have the entropy that they claim, and a PixelCNN learns nearly all of it: likelihoods against the truth."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.console import Console

from ancestral_exporter import tiles
from ancestral_exporter.bundle.export import export_graphs
from ancestral_exporter.data import DataSettings, Images, load
from ancestral_exporter.evaluate import evaluate
from ancestral_exporter.models.base import ImageModel
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find
from ancestral_exporter.sampling import draw_samples, sample_role
from ancestral_exporter.training import Options, fit
from shared import Shared

SIZE = tiles.SHAPE.height * tiles.SHAPE.width * tiles.SHAPE.channels
ENTROPY = SIZE * tiles.BITS_PER_DIM * math.log(2)  # nats per image


def levels_of(images: Images) -> tiles.Levels:
    return np.rint(images / 255 * (tiles.SHAPE.levels - 1)).astype(np.int64)


def shares(levels: tiles.Levels) -> npt.NDArray[np.float64]:
    """How often each value of the noise occurs, per channel [C,K]."""
    noise = tiles.noise_of(levels)
    return np.stack([(noise == value).mean(axis=(0, 1, 2)) for value in range(len(tiles.NOISE))], axis=1)


def test_the_noise_is_distributed_as_it_says() -> None:
    levels = tiles.generate(20_000, np.random.default_rng(0))
    assert levels.shape == (20_000, 6, 6, 3)
    np.testing.assert_allclose(shares(levels), np.tile(tiles.NOISE, (3, 1)), atol=0.003)  # deviation 0.0006 at most
    # Independent of where it is, and of the noise before it.
    noise = tiles.noise_of(levels)
    assert abs((noise == 0).mean(0) - tiles.NOISE[0]).max() < 0.015
    flat = (noise == 0).reshape(20_000, -1).astype(float)
    correlations = np.corrcoef(flat.T) - np.eye(SIZE)
    assert abs(correlations).max() < 0.04
    # All the rest is arithmetic: the values themselves look uniform, save near the corner where it begins.
    assert abs((levels[:, -1, -1, 2] == 0).mean() - 0.25) < 0.02


def test_noise_and_levels_determine_each_other() -> None:
    """By hand, pixel after pixel."""
    levels = tiles.generate(5, np.random.default_rng(1))
    noise = tiles.noise_of(levels)
    for image, drawn in zip(levels, noise, strict=True):
        for i, j in itertools.product(range(6), range(6)):
            left = image[i, j - 1, 0] if j else 0
            above = image[i - 1, j, 1] if i else 0
            red, green, blue = image[i, j]
            wanted = [left + drawn[i, j, 0], red + above + drawn[i, j, 1], red + green + drawn[i, j, 2]]
            assert [red, green, blue] == [value % 4 for value in wanted]


def test_mean_log_probability_is_the_entropy() -> None:
    logs = tiles.log_probability(tiles.generate(20_000, np.random.default_rng(2)))
    error = logs.std() / math.sqrt(len(logs))
    assert abs(-logs.mean() - ENTROPY) < 4 * error
    assert pytest.approx(1.3190, abs=1e-4) == tiles.BITS_PER_DIM


def test_the_data_set_is_always_the_same() -> None:
    one, other = load(DataSettings("tiles")), load(DataSettings("tiles"))
    assert [len(part) for part in (one.train, one.validation, one.test)] == [4000, 500, 2000]
    np.testing.assert_array_equal(one.test.images, other.test.images)
    assert set(np.unique(one.train.images)) == {0, 85, 170, 255}
    assert not (one.test.images[:, None] == one.train.images[:200]).all(axis=(2, 3, 4)).any()


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The real one, trained for fewer epochs."""
    found = find("tiles-pixelcnn")
    return dataclasses.replace(found, schedule=dataclasses.replace(found.schedule, epochs=6))


@pytest.fixture(scope="module")
def model(recipe: Recipe, once: Shared) -> ImageModel:
    def train(folder: Path) -> None:
        announcer = Announcer(Console(file=io.StringIO()), "test")
        fitted = fit(recipe, load(DataSettings("tiles")), folder / "work", Options(), announcer)
        torch.save(fitted.model.state_dict(), folder / "weights.pt")

    model = recipe.build(tiles.SHAPE)
    model.load_state_dict(torch.load(once("tiles", train) / "weights.pt"))
    return model.eval()


def test_a_model_comes_near_the_entropy_and_never_below(model: ImageModel) -> None:
    split = load(DataSettings("tiles")).test
    truth = -tiles.log_probability(levels_of(split.images))
    found = evaluate(model, split, "test")
    error = truth.std() / math.sqrt(len(truth))
    assert ENTROPY - 4 * error < found.nats < 1.05 * ENTROPY
    # On the very images no model beats the one that made them by more than chance; their gap is a divergence.
    assert truth.mean() < found.nats


def test_samples_have_the_noise_that_the_images_have(model: ImageModel, tmp_path: Path) -> None:
    export_graphs(model.graphs(), tmp_path)
    role = sample_role(model)
    assert role is not None
    drawn = draw_samples(model, role, tmp_path, 500, seed=0, temperature=1)
    np.testing.assert_allclose(shares(levels_of(drawn)), np.tile(tiles.NOISE, (3, 1)), atol=0.03)
    # Samples of independent pixels would have uniform noise.
    shuffled = np.random.default_rng(0).permuted(drawn.reshape(500, -1), axis=0).reshape(drawn.shape)
    assert abs(shares(levels_of(shuffled))[:, 0] - tiles.NOISE[0]).min() > 0.2


def test_the_recipe_is_held_against_the_entropy() -> None:
    assert {reference.bits_per_dim for reference in find("tiles-pixelcnn").references} == {2.0, tiles.BITS_PER_DIM}
