"""A classifier begins from the encoder of a bundle, weight for weight, and learns from labelled images alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toybundle
from ancestral_exporter import data
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.data import DataSettings
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.autoencoder import Autoencoder, AutoencoderSettings
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.classifier import Classifier, ClassifierSettings, encoder_sizes
from ancestral_exporter.recipes import find, new
from shared import Shared

SHAPE = ImageShape(6, 5, 3, 4)
WIDTHS, FEATURES = (4, 8), 12


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SHAPE, AutoencoderSettings(latent_size=3, channels=4, features=FEATURES, blocks=1)).eval()


@pytest.fixture(scope="module")
def bundle(autoencoder: Autoencoder, once: Shared) -> Path:
    write = partial(write_bundle, autoencoder, name="ae", golden_images=np.zeros((2, *SHAPE.hwc), np.uint8))
    return once("autoencoder", lambda folder: write(models_dir=folder)) / "ae" / "1"


def settings(pretrained: object = "", **others: Any) -> ClassifierSettings:
    sizes = {"encoder_widths": WIDTHS, "features": FEATURES, "blocks": 1, **others}
    return ClassifierSettings(label_count=3, pretrained=str(pretrained), **sizes)


def test_the_encoder_is_that_of_the_bundle(bundle: Path, autoencoder: Autoencoder) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, *SHAPE.hwc), dtype=np.uint8))
    begun, scratch = Classifier(SHAPE, settings(bundle)).eval(), Classifier(SHAPE, settings()).eval()
    with torch.no_grad():
        torch.testing.assert_close(begun.encoder(images), autoencoder.encoder(images))
        assert not torch.allclose(scratch.encoder(images), autoencoder.encoder(images))
    assert begun.logits(images).shape == (5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder_widths": (4, 9)},
            r"its encoder's convolutions\.\S+ is \[.*\], this one's \[.*\]; set model.encoder_w",
        ),
        ({"features": 13}, r"its encoder's dense\.\S+ is \[12.*\], this one's \[13"),
        ({"blocks": 0}, "its encoder is another: it has the weights convolutions"),
        ({"pretrained": "nowhere"}, r"model.pretrained = 'nowhere': no features.onnx there"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named(bundle: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classifier(SHAPE, settings(**{"pretrained": bundle, **change}))


def test_a_damaged_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "features.onnx").write_bytes(b"\x08no graph")
    with pytest.raises(UsageError, match=r"features.onnx cannot be read"):
        Classifier(SHAPE, settings(tmp_path))


def test_a_recipe_is_written_for_the_encoder_that_it_begins_from(bundle: Path, tmp_path: Path) -> None:
    """Whatever the images are like: they are made as they were for the encoder, and it fits."""
    images = np.random.default_rng(0).integers(0, 256, (80, 20, 16), dtype=np.uint8)
    np.savez(tmp_path / "shells.npz", images=images, labels=np.arange(80) % 3)
    file = tmp_path / "shells.toml"
    file.write_text(new.write("classifier", tmp_path / "shells.npz", bundle).text)
    recipe = find(str(file))
    assert recipe.model == ClassifierSettings(3, str(bundle), WIDTHS, 1, FEATURES, dropout=0.2)
    found = data.load(recipe.data, tmp_path / "shells.npz")
    assert found.image == SHAPE
    assert isinstance(recipe.build(found.image), Classifier)
    file.write_text(new.write("classifier", tmp_path / "shells.npz").text)
    recipe = find(str(file))
    assert (recipe.model.pretrained, recipe.model.label_count, recipe.data.size) == ("", 3, (20, 16))
    with pytest.raises(UsageError, match=r"--pretrained \S+: is for a classifier; give --family classifier"):
        new.write("vae", tmp_path / "shells.npz", bundle)
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        new.write("classifier", tmp_path / "shells.npz", tmp_path / "nowhere")
    old = Path(__file__).parents[2] / "bundles" / "vae-0.2.0" / "1"
    assert encoder_sizes(old).features > 0
    toybundle.write(tmp_path / "toys")
    with pytest.raises(UsageError, match=r"tally/1'?: no features.onnx there"):
        new.write("classifier", tmp_path / "shells.npz", tmp_path / "toys" / "tally" / "1")


def test_images_without_a_label_are_left_out() -> None:
    train = data.load(DataSettings("digits", labelled=50)).train
    assert len(train) == 1000
    kept = data.labelled_only(train)
    assert len(kept) == 50
    np.testing.assert_array_equal(np.bincount(kept.labels), [5] * 10)
    np.testing.assert_array_equal(kept.images, train.images[train.labels >= 0])
