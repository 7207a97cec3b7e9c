"""From a training to an alert: what the exporter records of the training images is what a server compares with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ancestral_client import Client
from ancestral_exporter import data
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.data import DataSettings
from running import PATIENT, ServerProcess
from shared import TrainedVae
from waiting import until


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load(DataSettings(source="digits"), None)


@pytest.fixture(scope="module")
def server(trained_vae: TrainedVae) -> Iterator[ServerProcess]:
    with ServerProcess(trained_vae.models, *PATIENT) as server:
        yield server


def test_a_bundle_says_what_its_training_images_were_like(trained_vae: TrainedVae, digits: data.Dataset) -> None:
    moments = read_manifest(trained_vae.models / "digits-vae" / "1").training_moments
    brightness = digits.train.images.reshape(len(digits.train), -1).mean(axis=1) / 255
    assert moments.images == len(digits.train)
    assert moments.intensity_mean == pytest.approx(brightness.mean())
    assert moments.intensity_std == pytest.approx(brightness.std())
    assert len(moments.latent_mean) == len(moments.latent_std) == 24
    assert min(moments.latent_std) > 0


def test_drift_is_seen_where_there_is_some(server: ServerProcess, digits: data.Dataset) -> None:
    def told(images: Any) -> dict[str, float]:
        """What is said of the encodings of these images, some after others, once more of them were looked at."""
        before = server.metric("ancestral_images_inspected_total", role="encode")

        def inspected() -> bool:
            client.encode("digits-vae", images)
            return server.metric("ancestral_images_inspected_total", role="encode") >= before + 128

        until(inspected)
        return {
            name: server.metric(f"ancestral_{name}", model="digits-vae", role="encode")
            for name in ("input_shift", "latent_shift", "latent_spread")
        }

    with Client(server.address) as client:
        usual = told(digits.test.images)
        assert abs(usual["input_shift"]) < 0.5
        assert usual["latent_shift"] < 0.5
        assert 0.5 < usual["latent_spread"] < 1.5
        unusual = told(255 - digits.test.images)
        assert unusual["input_shift"] > 0.5
        assert unusual["latent_shift"] > usual["latent_shift"]
