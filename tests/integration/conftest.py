"""Bundles of small real models, exported once for all tests here: a test copies those that it serves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.semi_supervised import SemiSupervisedSettings, SemiSupervisedVAE
from ancestral_exporter.models.vae import VAE, VAESettings
from pixelcnns import exported, sharp_pixelcnn
from shared import Shared


@pytest.fixture(scope="session")
def labelled(once: Shared) -> Path:
    """A PixelCNN of 8×8 images and 3 classes: a folder `labelled`, to be copied into a folder of models."""
    model = sharp_pixelcnn(ImageShape(8, 8, 1, 17), label_count=3)
    return once("labelled", lambda folder: exported(model, folder, "labelled")) / "labelled"


@pytest.fixture(scope="session")
def large(once: Shared) -> Path:
    """A PixelCNN of 24×24 images, whose samples take a while: a folder `large`."""
    model = sharp_pixelcnn(ImageShape(24, 24, 1, 2))
    return once("large", lambda folder: exported(model, folder, "large")) / "large"


@pytest.fixture(scope="session")
def vae_model() -> VAE:
    """A VAE of 8×8 images with 4 latents."""
    torch.manual_seed(0)
    return VAE(ImageShape(8, 8, 1, 17), VAESettings(latent_size=4, channels=4, features=8, blocks=0)).eval()


@pytest.fixture(scope="session")
def vae(vae_model: VAE, once: Shared) -> Path:
    """That VAE: a folder `vae`."""
    golden = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    write = partial(write_bundle, vae_model, name="vae", golden_images=golden)
    return once("vae", lambda folder: write(models_dir=folder)) / "vae"


@pytest.fixture(scope="session")
def shells_model() -> SemiSupervisedVAE:
    """A VAE of 8×8 images that also tells three classes, with 2 latents."""
    torch.manual_seed(0)
    settings = SemiSupervisedSettings(3, latent_size=2, channels=4, features=8)
    return SemiSupervisedVAE(ImageShape(8, 8, 1, 17), settings).eval()


@pytest.fixture(scope="session")
def shells(shells_model: SemiSupervisedVAE, once: Shared) -> Path:
    """That classifier, whose classes have names: a folder `shells`."""
    golden, labels = np.zeros((3, 8, 8, 1), np.uint8), np.arange(3)
    write = partial(write_bundle, shells_model, name="shells", golden_images=golden, golden_labels=labels)
    names = ("cowrie", "limpet", "whelk")
    return once("shells", lambda folder: write(models_dir=folder, class_names=names)) / "shells"
