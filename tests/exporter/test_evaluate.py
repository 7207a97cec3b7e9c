"""Evaluation averages over images and draws, whatever the batches; pictures and tables have what they should."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ancestral.v1 import bundle_pb2
from ancestral_exporter import evaluate as module
from ancestral_exporter.card import commit
from ancestral_exporter.data import DataSettings, load
from ancestral_exporter.evaluate import evaluate
from ancestral_exporter.models.base import LikelihoodModel
from ancestral_exporter.plots import grid, write_curve, write_metrics
from ancestral_exporter.recipes import Recipe, find, shipped


@pytest.fixture
def model(tiny: Recipe) -> LikelihoodModel:
    torch.manual_seed(0)
    model = tiny.build(load(DataSettings("digits")).image).eval()
    assert isinstance(model, LikelihoodModel)
    return model


def test_mean_over_images_and_draws(model: LikelihoodModel, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load(DataSettings("digits")).test
    found = evaluate(model, split, "test")
    assert (found.images, found.draws) == (447, 5)
    assert found.bits_per_dim == pytest.approx(found.nats / (64 * math.log(2)))
    assert found.terms["loss"] == pytest.approx(found.terms["reconstruction"] + found.terms["kl"])
    assert evaluate(model, split, "test") == found
    # Other batches mean other noise, but the same figure within the noise; the last, smaller batch weighs less.
    monkeypatch.setattr(module, "_BATCH", 440)
    assert evaluate(model, split, "test").nats == pytest.approx(found.nats, rel=0.01)
    images = torch.from_numpy(split.images)
    with torch.no_grad():
        by_hand = torch.stack([model.negative_log_likelihood(images)["loss"] for _ in range(20)]).mean()
    assert found.nats == pytest.approx(by_hand.item(), rel=0.005)


def test_leaves_the_random_state_alone(model: LikelihoodModel) -> None:
    before = torch.get_rng_state()
    evaluate(model, load(DataSettings("digits")).validation, "validation")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_exact_likelihood_is_drawn_once() -> None:
    small = find("digits-pixelcnn", ["model.channels=8", "model.head_channels=8"])
    found = evaluate(small.build(load(DataSettings("digits")).image).eval(), load(DataSettings("digits")).test, "test")
    assert found.draws == 1
    assert found.metrics()[0].likelihood == bundle_pb2.LIKELIHOOD_EXACT


def test_an_image_is_judged_by_its_own_class() -> None:
    small = find("digits-pixelcnn-conditional", ["model.channels=8", "model.head_channels=8"])
    torch.manual_seed(0)
    model, split = small.build(load(DataSettings("digits")).image).eval(), load(DataSettings("digits")).test
    assert isinstance(model, LikelihoodModel)
    with torch.no_grad():
        terms = model.negative_log_likelihood(torch.from_numpy(split.images), torch.from_numpy(split.labels))
    assert evaluate(model, split, "test").nats == pytest.approx(terms["loss"].mean().item(), rel=1e-6)
    others = dataclasses.replace(split, labels=(split.labels + 1) % 10)
    assert evaluate(model, others, "test").nats != evaluate(model, split, "test").nats


def test_a_density_has_no_bits_per_dim(tiny: Recipe) -> None:
    density = (
        dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, likelihood="gaussian"))
        .build(load(DataSettings("digits")).image)
        .eval()
    )
    metrics = {metric.name for metric in evaluate(density, load(DataSettings("digits")).test, "test").metrics()}
    assert metrics == {"negative_log_density", "reconstruction", "kl"}


def test_recipes_are_what_the_design_asks() -> None:
    names = {recipe.name for recipe in shipped()}
    assert names >= {"digits-vae", "digits-pixelcnn", "digits-pixelcnn-conditional", "tiles-pixelcnn", "mnist-vae"}
    large = find("mnist-pixelcnn").model
    assert large.channels >= 64
    assert min(large.vertical_layers, large.horizontal_layers) >= 8


@pytest.mark.parametrize(("count", "channels", "shape"), [(1, 1, 2), (5, 1, 2), (64, 3, 3)])
def test_grid_shows_every_image(count: int, channels: int, shape: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    columns = math.ceil(math.sqrt(count))
    sheet = grid(images, columns)
    assert sheet.ndim == shape
    scale = 640 // (columns * 8)
    gap = max(1, scale // 4)
    last = count - 1
    top = last // columns * (8 * scale + gap) + gap
    left = last % columns * (8 * scale + gap) + gap
    cell = sheet[top : top + 8 * scale : scale, left : left + 8 * scale : scale].reshape(8, 8, channels)
    np.testing.assert_array_equal(cell, images[last])


def test_metrics_file_and_curve(tmp_path: Path) -> None:
    history = [
        {"epoch": 1.0, "step": 10.0, "train_bits_per_dim": 3.0, "validation_bits_per_dim": 2.5},
        {"epoch": 2.0, "step": 20.0, "train_bits_per_dim": 2.0, "validation_bits_per_dim": 2.25, "train_kl": 0.5},
    ]
    write_metrics(history, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "epoch": "1", "step": "10", "train_bits_per_dim": "3.0", "validation_bits_per_dim": "2.5", "train_kl": ""
    }  # fmt: skip
    assert rows[1]["train_kl"] == "0.5"
    write_curve(history, "title", 2, "bits_per_dim", "bits/dim", tmp_path)
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"


def test_commit_is_a_hash_or_unknown() -> None:
    found = commit()
    assert found == "unknown" or set(found.rstrip("+")) <= set("0123456789abcdef")
