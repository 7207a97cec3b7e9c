"""The bounds of the semi-supervised VAE by hand, and what it makes of images without a label."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ancestral_exporter.augmentation import shifted
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


def test_with_fewer_classes_q_is_made_of_the_most_probable_ones() -> None:
    """Which is a bound all the same, and cannot be above the best that any q gives: ln of the summed exp(−L(x, y))."""
    model, images = build(), some_images(5)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = model.encoder(images)
        q = functional.softmax(model.classifier(features), dim=1)
        joint = torch.stack([model.bound(images, features, torch.full((5,), y), noise) for y in range(3)], dim=1)
        least = q.argmin(1, keepdim=True)
        q = q.scatter(1, least, 0)
        q = q / q.sum(1, keepdim=True)
        by_hand = torch.special.xlogy(q, q).neg().sum(1) + (q * joint).sum(1)
        found = model.unlabelled_bound(images, features, noise, classes=2)
    torch.testing.assert_close(found, by_hand)
    assert bool((found <= joint.logsumexp(1) + 1e-4).all())


def test_at_first_the_bound_teaches_the_classifier_nothing() -> None:
    model, images = build(), some_images(6)
    slopes = {}
    for taught in (0.0, 0.5, 1.0):
        model.zero_grad()
        bound = model.unlabelled_bound(images, model.encoder(images), torch.zeros(6, 2), taught=taught)
        bound.sum().backward()
        slopes[taught] = torch.cat(
            [weight.grad.flatten() for weight in model.classifier.parameters() if weight.grad is not None]
        )
        decoder = torch.cat([weight.grad.flatten() for weight in model.decoder.parameters() if weight.grad is not None])
        assert float(decoder.abs().max()) > 0
    assert float(slopes[1.0].abs().max()) > 0
    torch.testing.assert_close(slopes[0.5], 0.5 * slopes[1.0])
    assert float(slopes[0.0].abs().max()) == 0
    # The recipe says for how long.
    torch.manual_seed(0)
    slow = SemiSupervisedVAE(SHAPE, replace(model.settings, class_warmup_fraction=0.5)).eval()
    unlabelled = torch.full((6,), -1)
    for progress, share in ((0.25, 0.5), (0.75, 1.0)):
        slow.zero_grad()
        torch.manual_seed(1)
        slow.training_terms(images, unlabelled, progress)[OBJECTIVE].sum().backward()
        found = slow.classifier.weight.grad
        torch.manual_seed(1)
        noise = torch.randn(6, 2)
        slow.zero_grad()
        slow.unlabelled_bound(images, slow.encoder(images), noise, taught=share).neg().sum().backward()
        torch.testing.assert_close(found, slow.classifier.weight.grad)


def test_another_view_is_to_be_of_the_class_that_is_known() -> None:
    torch.manual_seed(0)
    settings = SemiSupervisedSettings(
        label_count=3, latent_size=2, channels=4, features=8, label_weight=7, view_weight=5, view_shift=1
    )
    model, images = SemiSupervisedVAE(SHAPE, settings).eval(), some_images(4)
    labels = torch.tensor([-1, -1, 2, -1])
    with torch.no_grad():
        # Louder and louder, until the classifier is sure of an image without a label, but not yet of all.
        sure = torch.zeros(4, dtype=torch.bool)
        while not sure[labels < 0].any():
            model.classifier.weight.mul_(1.1)
            share, guess = functional.softmax(model.classifier(model.encoder(images)), dim=1).max(1)
            sure = share > 0.95
        assert not sure[labels < 0].all()
        torch.manual_seed(3)
        found = model.training_terms(images, labels, 1.0)[OBJECTIVE]
        plain = SemiSupervisedVAE(SHAPE, replace(settings, view_weight=0.0, view_shift=0)).eval()
        plain.load_state_dict(model.state_dict())
        torch.manual_seed(3)
        without = plain.training_terms(images, labels, 1.0)[OBJECTIVE]
        view = shifted(images, 1)
        assert not torch.equal(view, images)
        target = torch.tensor([int(guess[0]), int(guess[1]), 2, int(guess[3])])
        nats = functional.cross_entropy(model.classifier(model.encoder(view)), target, reduction="none")
        counts = sure | (labels >= 0)
    torch.testing.assert_close(found - without, 5 * nats * counts)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"likely_classes": 4}, "likely_classes is 4, more than label_count, 3"),
        ({"view_weight": 1}, "view_weight needs a view_shift or a view_rotation"),
        ({"view_shift": 1}, "view_shift and view_rotation need a view_weight"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemiSupervisedSettings(label_count=3, **setting)


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
