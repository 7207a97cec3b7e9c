"""Every shipped recipe, from its file to the client: trained a few steps, exported, verified, served, asked for all.

What it answers about an image is bitwise the same in company, too.

A recipe that is added is tested without a word here. Its net is small and its images are few, made up and no larger
than 12×12, but have its data's channels and levels, and ten classes; all else is the recipe's.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ancestral.v1 import bundle_pb2
from ancestral_client import Client
from ancestral_client.results import Model
from ancestral_exporter import data
from ancestral_exporter.bundle import verify_bundle
from ancestral_exporter.data import Dataset, DataSettings, Split
from ancestral_exporter.make import make
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find, shipped
from ancestral_exporter.training import Options
from ancestral_server.runtime.bundle import read_bundle
from company import check
from running import PATIENT, ServerProcess
from waiting import until

# Whole numbers of `[model]` that make a net large, whatever the family, and what they are here at most.
SMALL = {
    "channels": 8, "head_channels": 8, "hidden_channels": 8, "hidden_size": 8, "features": 8, "encoder_features": 8,
    "latent_size": 3, "size": 5, "layers": 2, "vertical_layers": 3, "horizontal_layers": 2, "blocks": 1,
    "encoder_blocks": 1,
}  # fmt: skip
IMAGES, BATCH, SIDE = 40, 20, 12


def small(name: str) -> Recipe:
    recipe = find(name)
    found = {
        key: min(most, value)
        for key, most in SMALL.items()
        if isinstance(value := getattr(recipe.model, key, None), int)
    }
    settings = [f"model.{key}={value}" for key, value in found.items()]
    if widths := getattr(recipe.model, "encoder_widths", None):
        settings.append(f"model.encoder_widths={[8 for _ in widths[:2]]}")
    if recipe.data.labelled is not None:
        settings.append(f"data.labelled={IMAGES // 2}")
    return find(name, [*settings, "schedule.epochs=1", f"schedule.batch_size={BATCH}"])


def image_shape(settings: DataSettings) -> ImageShape:
    described = data.shape(settings)
    assert described is not None
    return ImageShape(min(SIDE, described.height), min(SIDE, described.width), described.channels, described.levels)


def stand_in(settings: DataSettings, path: Path | None = None) -> Dataset:
    """Made-up images of such data, as many in each part, whose classes go round."""
    shape = image_shape(settings)
    random = np.random.default_rng(0)
    labels = np.arange(IMAGES) % 10

    def images(levels: int) -> data.Images:
        drawn = random.integers(0, levels, (IMAGES, *shape.hwc))
        return np.rint(drawn * 255 / (levels - 1)).astype(np.uint8)

    # Two levels are drawn anew from grey images, as MNIST's are.
    drawn_anew = shape.levels == 2
    train = Split(images(256 if drawn_anew else shape.levels), labels, drawn_anew)
    if settings.labelled is not None:
        train = dataclasses.replace(train, labels=np.where(np.arange(IMAGES) < settings.labelled, labels, -1))
    other = Split(images(shape.levels), labels)
    return Dataset("stand-in", "made-up images", "none", shape, train, other, other)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[Client]:
    """Of one server for all, which finds each bundle in the folder as it is written."""
    with (
        ServerProcess(models, "--poll-seconds", "0.1", *PATIENT) as server,
        Client(server.address, timeout=600) as client,
    ):
        yield client


@pytest.mark.parametrize("name", [summary.name for summary in shipped()])
def test_a_recipe_is_trained_exported_verified_and_served(
    name: str, models: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", stand_in)
    made = make(small(name), models, None, Options(), Announcer(Console(file=io.StringIO()), name))
    assert made.path == models / name / "1"
    assert {evaluation.split for evaluation in made.evaluations} == {"validation", "test"}
    verify_bundle(made.path).raise_if_failed()
    manifest = read_bundle(made.path).manifest
    golden = np.load(made.path / manifest.golden.path)
    until(lambda: any((model.name, model.serving) == (name, True) for model in client.models()))
    (model,) = [model for model in client.models() if model.name == name]
    assert model.roles == tuple(role.name for role in manifest.roles)
    for role in manifest.roles:
        ask(client, model, role.name, any(spec.meaning == bundle_pb2.MEANING_LABEL for spec in role.inputs))
        feeds = {spec.name: golden[f"{role.name}/in/{spec.name}"][:5] for spec in role.inputs}
        check(made.path / role.graph, role, feeds, manifest.image.height, batches=(5, 33), threads=(1, 3))


def ask(client: Client, model: Model, role: str, labelled: bool) -> None:
    """Have the model do what a role is for, given classes where it must be told them, and look at what comes back."""
    images = np.random.default_rng(1).integers(0, 256, (3, *model.image_shape), dtype=np.uint8)
    label = 0 if labelled else None
    if role == "sample":
        drawn = client.sample(model.name, 3, seed=1, label=label).images
        assert drawn.shape == images.shape
        np.testing.assert_array_equal(
            client.sample(model.name, 2, seed=1, first_index=1, label=label).images, drawn[1:]
        )
        levels = np.rint(np.arange(model.levels) * 255 / (model.levels - 1))
        assert np.isin(drawn, levels).all()
    elif role == "encode":
        assert np.isfinite(client.encode(model.name, images).mean).all()
    elif role == "decode":
        assert client.decode(model.name, np.zeros((3, model.latent_size))).images.shape == images.shape
    elif role == "features":
        found = client.features(model.name, images, labels=label).features
        assert len(found) == 3
        assert np.isfinite(found).all()
    elif role == "score":
        assert np.isfinite(client.score(model.name, images, labels=label).log_likelihood).all()
    elif role == "classify":
        probabilities = client.classify(model.name, images).probabilities
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    else:
        raise AssertionError(f"{model.name}: nothing here asks for the role {role!r}")
