"""One server with a model of every kind, for every test of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch

import toybundle
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.vae import VAE, VAESettings
from openinference import SHAPE, Native, Stub, some_images
from pixelcnns import exported, sharp_pixelcnn
from running import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    toybundle.write(models)
    toybundle.write(models, version=3)
    # Its name is also that of a role of tally.
    toybundle.write(models, "tally.score")
    toybundle.write(models, "wrong", scale=254.0)
    exported(sharp_pixelcnn(ImageShape(*SHAPE, 17), label_count=3), models, "labelled")
    torch.manual_seed(0)
    vae = VAE(ImageShape(*SHAPE, 17), VAESettings(latent_size=4, channels=4, features=8, blocks=0))
    write_bundle(vae.eval(), name="vae", models_dir=models, golden_images=some_images(4))
    with ServerProcess(models, "--max-images", "500", "--max-sample-count", "400") as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


@pytest.fixture(scope="module")
def native(channel: grpc.Channel) -> Native:
    return Native(channel)
