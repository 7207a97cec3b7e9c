from __future__ import annotations

import dataclasses
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ancestral_exporter.models.vae import VAESettings
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find


@pytest.fixture
def said() -> io.StringIO:
    """What `announcer` was told to say."""
    return io.StringIO()


@pytest.fixture
def announcer(said: io.StringIO) -> Announcer:
    return Announcer(Console(file=said, width=200), "test")


@pytest.fixture
def tiny() -> Recipe:
    """A VAE of the digits that trains in a second, under the name of a real recipe."""
    recipe = find("digits-vae")
    settings = VAESettings(
        latent_size=4, channels=4, features=16, encoder_dropout=0.1, decoder_dropout=0.1, kl_warmup_fraction=0.3
    )
    return dataclasses.replace(
        recipe,
        model=settings,
        schedule=dataclasses.replace(
            recipe.schedule, epochs=4, batch_size=100, learning_rate=1e-2, average_decay=0.8, validate_every_epochs=1
        ),
    )


def idx(array: np.ndarray) -> bytes:
    """An idx file of unsigned bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_mnist() -> Callable[..., Path]:
    """Writes the four idx files: `write_mnist(folder, train=10_010, test=5, compressed=True)`."""

    def write(folder: Path, train: int = 10_010, test: int = 5, compressed: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for part, count in (("train", train), ("t10k", test)):
            for kind, array in (
                ("images-idx3", random.integers(0, 256, (count, 28, 28))),
                ("labels-idx1", np.arange(count) % 10),
            ):
                content = idx(array)
                name = f"{part}-{kind}-ubyte"
                if compressed:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
                else:
                    (folder / name).write_bytes(content)
        return folder

    return write
