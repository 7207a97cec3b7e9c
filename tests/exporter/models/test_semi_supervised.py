"""The bounds of the semi-supervised VAE by hand, and what it makes of images without a label."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ancestral_exporter.data import DataSettings, load
from ancestral_exporter.errors import DataError
from ancestral_exporter.evaluate import evaluate
from ancestral_exporter.make import make
from ancestral_exporter.models.base import OBJECTIVE, ImageShape
from ancestral_exporter.models.semi_supervised import SemiSupervisedSettings, SemiSupervisedVAE
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import find
from ancestral_exporter.training import Options, fit

SHAPE = ImageShape(6, 5, 1, 4)


def build() -> SemiSupervisedVAE:
    torch.manual_seed(0)
    settings = SemiSupervisedSettings(label_count=3, latent_size=2, channels=4, features=8, label_weight=7)
    return SemiSupervisedVAE(SHAPE, settings).eval()


def some_images(count: int) -> torch.Tensor:
    levels = torch.randint(0, 4, (count, *SHAPE.hwc), generator=torch.Generator().manual_seed(1))
    return (levels * 85).to(torch.uint8)


def test_the_unlabelled_bound_sums_over_the_classes() -> None:
    model, images = build(), some_images(5)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = model.encoder(images)
        found = model.unlabelled_bound(images, features, noise)
        q = functional.softmax(model.classifier(features), dim=1)
        by_hand = torch.zeros(5)
        for label in range(3):
            joint = model.bound(images, features, torch.full((5,), label), noise)
            by_hand += q[:, label] * (joint - q[:, label].log())
    torch.testing.assert_close(found, by_hand)


def test_the_labelled_bound_by_hand() -> None:
    """log p(x|y,z) + log p(y) − KL(q(z|x,y) || p(z)) with torch's own densities."""
    model, images, labels = build(), some_images(4), torch.tensor([0, 1, 2, 1])
    noise = torch.zeros(4, 2)
    with torch.no_grad():
        features = model.encoder(images)
        mean, log_variance = model.moments(features, labels)
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
        log_px = model.pixels.log_prob(model.parameters_of(mean, labels), images)
        torch.testing.assert_close(model.bound(images, features, labels, noise), log_px - math.log(3) - kl)


def test_log_weights_average_to_the_unlabelled_bound() -> None:
    model, count = build(), 4000
    image = some_images(1).expand(count, -1, -1, -1)
    generator = torch.Generator().manual_seed(2)
    noise, uniforms = torch.randn(count, 2, generator=generator), torch.rand(count, generator=generator)
    with torch.no_grad():
        weights = model.log_weight(image, noise, uniforms)
        bounds = model.unlabelled_bound(image, model.encoder(image), noise)
    error = ((weights.var() + bounds.var()) / count).sqrt().item()
    assert weights.mean().item() == pytest.approx(bounds.mean().item(), abs=4 * error)
    # Many draws are worth more than one.
    assert weights.logsumexp(0) - math.log(count) > weights.mean() + 0.01


def test_labels_count_where_they_are_known() -> None:
    model, images = build(), some_images(6)
    some = torch.tensor([0, -1, 2, -1, -1, 1])
    torch.manual_seed(3)
    found = model.training_terms(images, some, 0.5)[OBJECTIVE]
    torch.manual_seed(3)
    noise = torch.randn(6, 2)
    features = model.encoder(images)
    unlabelled = -model.unlabelled_bound(images, features, noise)
    nats = functional.cross_entropy(model.classifier(features), some.clamp(min=0), reduction="none")
    labelled = 7 * nats - model.bound(images, features, some.clamp(min=0), noise)
    torch.testing.assert_close(found, torch.where(some < 0, unlabelled, labelled))
    # All or none of a batch may have labels.
    for same in (-1, 1):
        assert torch.isfinite(model.training_terms(images, torch.full((6,), same), 0.5)[OBJECTIVE]).all()


def test_as_many_labels_of_each_class() -> None:
    data = load(DataSettings("digits", labelled=100))
    assert np.bincount(data.train.labels + 1).tolist() == [900, *[10] * 10]
    whole = load(DataSettings("digits"))
    kept = data.train.labels >= 0
    np.testing.assert_array_equal(data.train.labels[kept], whole.train.labels[kept])
    np.testing.assert_array_equal(data.validation.labels, whole.validation.labels)
    with pytest.raises(DataError, match=r"data.labelled is 105; with 10 classes it must be a multiple of 10, at most"):
        load(DataSettings("digits", labelled=105))
    with pytest.raises(DataError, match=r"data.labelled is 5000"):
        load(DataSettings("digits", labelled=5000))


def test_learns_the_classes_of_few_labels(tmp_path: Path, announcer: Announcer) -> None:
    """Chance is an error of 90 %; measured after these 6 epochs: 23 %."""
    settings = ["model.channels=16", "model.features=64", "schedule.epochs=6", "data.labelled=200"]
    recipe = find("digits-semi-supervised", settings)
    data = load(recipe.data)
    test = evaluate(fit(recipe, data, tmp_path, Options(), announcer).model, data.test, "test")
    assert test.terms["error"] < 0.5
    units = {metric.name: metric.unit for metric in test.metrics()}
    assert units["error"] == "share of images"
    assert units["label_nats"] == "nats/label"
    assert units["bits_per_dim"] == "bits/dim"


def test_other_families_need_every_label(tmp_path: Path, announcer: Announcer) -> None:
    with pytest.raises(DataError, match=r"data.labelled is for a family that learns from images without labels"):
        make(find("digits-vae", ["data.labelled=100"]), tmp_path, None, Options(), announcer)
