"""Samples of exported graphs are what was learnt: their class is that of the label."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image
from rich.console import Console

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array, Arrays, open_session, run_role
from ancestral_exporter.data import Dataset, DataSettings, load
from ancestral_exporter.make import make
from ancestral_exporter.models.base import ImageModel
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find
from ancestral_exporter.sampling import draw_samples, label_agreement, round_labels
from ancestral_exporter.training import Options
from shared import Shared

# Images of ten classes that a net tells apart at once: each has three greys of its own, of 17.
IMAGES = DataSettings("images", levels=17)


def write_greys(path: Path) -> Path:
    random = np.random.default_rng(0)
    labels = np.arange(600) % 10
    levels = middle_level(labels)[:, None, None] + random.integers(-1, 2, (600, 8, 8))
    np.savez(path, images=np.rint(levels * 255 / 16).astype(np.uint8), labels=labels)
    return path


def middle_level(labels: Array) -> Array:
    return np.rint(1 + labels * 14 / 9).astype(np.int64)


def classes_of(images: Array) -> Array:
    """By their mean grey."""
    grey = images.reshape(len(images), -1).mean(axis=1) * 16 / 255
    found: Array = abs(grey[:, None] - middle_level(np.arange(10))).argmin(axis=1)
    return found


@pytest.fixture(scope="module")
def trained(once: Shared) -> Path:
    """Such images, `greys.npz`, and `models` with a small conditional PixelCNN of them."""
    net = ["channels=16", "head_channels=32", "vertical_layers=1", "horizontal_layers=1", "dropout=0.0"]
    schedule = ["epochs=8", "learning_rate=1e-2", "average_decay=0.9", "validate_every_epochs=8"]
    settings = [*(f"model.{one}" for one in net), *(f"schedule.{one}" for one in schedule)]
    recipe = find("digits-pixelcnn-conditional", [*settings, "data.source=images", "data.levels=17"])
    announcer = Announcer(Console(file=io.StringIO()), "test")

    def train(folder: Path) -> None:
        make(recipe, folder / "models", write_greys(folder / "greys.npz"), Options(), announcer)

    return once("conditional", train)


@pytest.fixture
def conditional(trained: Path) -> Path:
    return trained / "models" / "digits-pixelcnn-conditional" / "1"


@pytest.fixture
def greys(trained: Path) -> Dataset:
    return load(IMAGES, trained / "greys.npz")


def test_a_conditional_bundle_says_so(conditional: Path, greys: Dataset) -> None:
    manifest = json_format.Parse((conditional / "bundle.json").read_text(), bundle_pb2.Bundle())
    assert manifest.label_count == 10
    for role in manifest.roles:
        takes_label = bundle_pb2.MEANING_LABEL in [spec.meaning for spec in role.inputs]
        assert takes_label == (role.name != "classify")
    golden = np.load(conditional / "golden.npz")
    labels = greys.validation.labels
    np.testing.assert_array_equal(golden["score/in/label"], labels[:16])
    np.testing.assert_array_equal(golden["sample/in/label"], labels[:4])
    assert "one column for each of the 10 classes" in (conditional / "CARD.md").read_text()
    with Image.open(conditional / "samples.png") as picture:
        assert picture.width > picture.height  # 10 columns, 8 rows


def test_samples_are_of_the_class_that_was_asked_for(conditional: Path, greys: Dataset) -> None:
    """Chance is 10 %."""
    model: ImageModel = find("digits-pixelcnn-conditional").build(greys.image)  # only its shape and classes matter
    manifest = json_format.Parse((conditional / "bundle.json").read_text(), bundle_pb2.Bundle())
    role = next(role for role in manifest.roles if role.name == "sample")
    images = draw_samples(model, role, conditional, 500, seed=3, temperature=1)
    wanted = round_labels(model, 500)
    assert (np.bincount(wanted) == 50).all()
    assert (classes_of(greys.test.images) == greys.test.labels).all()
    assert (classes_of(images) == wanted).mean() > 0.8
    # The card's figure is of other samples and another classifier.
    (share,) = (metric.value for metric in manifest.metrics if metric.name == "label_agreement")
    assert 0.8 < share <= 1
    assert f"{share:.1%} are what their label says" in (conditional / "CARD.md").read_text()


def test_images_are_of_the_class_that_makes_them_likeliest(conditional: Path, greys: Dataset) -> None:
    """By Bayes' rule, with no net of its own for it."""
    test = greys.test
    manifest = json_format.Parse((conditional / "bundle.json").read_text(), bundle_pb2.Bundle())
    roles = {role.name: role for role in manifest.roles}

    def answer(name: str, feeds: Arrays) -> Array:
        (value,) = run_role(open_session(conditional / roles[name].graph), roles[name], feeds, 8).values()
        return value

    logits = answer("classify", {"image": test.images})
    assert (logits.argmax(1) == test.labels).mean() > 0.9
    # With equally probable classes: p(image, class), whose sum is p(image).
    for label in (0, 9):
        given = answer("score", {"image": test.images[:5], "label": np.full(5, label)})
        np.testing.assert_allclose(logits[:5, label], given - np.log(10), atol=1e-4)


def test_no_labels_no_agreement(tmp_path: Path, tiny: Recipe) -> None:
    data = load(DataSettings("digits"))
    assert label_agreement(tiny.build(data.image), tmp_path, data) is None
