from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from shared import Shared


@pytest.fixture(scope="session")
def model() -> GatedPixelCNN:
    torch.manual_seed(0)
    shape = ImageShape(5, 4, 1, 3)
    return GatedPixelCNN(shape, PixelCNNSettings(channels=8, vertical_layers=2, horizontal_layers=2, label_count=2))


def extras(folder: Path) -> list[bundle_pb2.Metric]:
    (folder / "CARD.md").write_text("# tiny\n")
    return [bundle_pb2.Metric(name="of_the_graph", value=2)]


@pytest.fixture(scope="session")
def pristine(model: GatedPixelCNN, once: Shared) -> Path:
    """A written bundle that no test may change: `<models>/tiny/1`."""
    write = partial(
        write_bundle,
        model,
        name="tiny",
        description="a test",
        metrics=[bundle_pb2.Metric(name="bits_per_dim", value=1.5, unit="bits/dim", split="test")],
        provenance={"seed": "0"},
        golden_images=np.random.default_rng(0).integers(0, 256, (6, 5, 4, 1), dtype=np.uint8),
        golden_labels=np.arange(6) % 2,
        extras=extras,
    )
    return once("pristine", lambda folder: write(models_dir=folder)) / "tiny" / "1"


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny" / "1"))
