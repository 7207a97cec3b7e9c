"""Classify over a real channel: logits, probabilities, labels and the names of classes, by every way in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from torch.nn import functional

from ancestral_client import Client, RoleNotSupported
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.autoencoder import Autoencoder, AutoencoderSettings
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.semi_supervised import SemiSupervisedVAE
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from running import ServerProcess
from shared import Shared
from waiting import PATIENCE

SHAPE = ImageShape(8, 8, 1, 17)
NAMES = ("cowrie", "limpet", "whelk")
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE.hwc), dtype=np.uint8)


@dataclass
class Served:
    model: SemiSupervisedVAE
    server: ServerProcess
    client: Client


@pytest.fixture(scope="module")
def served(labelled: Path, shells: Path, shells_model: SemiSupervisedVAE, once: Shared) -> Iterator[Served]:
    torch.manual_seed(0)
    other = Autoencoder(SHAPE, AutoencoderSettings(latent_size=3, channels=4, features=8))
    golden = np.zeros((3, *SHAPE.hwc), np.uint8)

    def write(to: Path) -> None:
        shutil.copytree(labelled, to / "labelled")
        shutil.copytree(shells, to / "shells")
        write_bundle(other, name="codes", models_dir=to, golden_images=golden)

    with ServerProcess(once("classify", write), "--max-queue-ms", "60000") as server, Client(server.address) as client:
        yield Served(shells_model, server, client)


def test_logits_probabilities_labels_and_names(served: Served) -> None:
    found = served.client.classify("shells", IMAGES)
    with torch.no_grad():
        logits = served.model.classifier(served.model.encoder(torch.from_numpy(IMAGES)))
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.probabilities, functional.softmax(logits, dim=1).numpy(), atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    assert found.labels.tolist() == found.logits.argmax(axis=1).tolist()
    assert found.class_names == NAMES
    assert found.names == [NAMES[label] for label in found.labels]
    assert served.client.model("shells").class_names == NAMES
    assert "classify" in served.client.model("shells").roles


def test_a_model_of_images_given_their_class_tells_classes_apart(served: Served) -> None:
    """By Bayes' rule, with the scores that it gives itself: 3 classes that are equally probable."""
    found = served.client.classify("labelled", IMAGES)
    given = [served.client.score("labelled", IMAGES, labels=[label] * 40).log_likelihood for label in range(3)]
    np.testing.assert_allclose(found.logits, np.stack(given, axis=1) - np.log(3), atol=1e-3)
    assert found.labels.tolist() == np.argmax(given, axis=0).tolist()
    np.testing.assert_array_equal(served.client.classify("labelled", IMAGES[7]).logits, found.logits[7:8])


def test_an_image_is_of_its_class_whatever_the_company(served: Served) -> None:
    many = served.client.classify("shells", IMAGES).logits
    for i in (0, 17, 39):
        np.testing.assert_array_equal(served.client.classify("shells", IMAGES[i]).logits, many[i : i + 1])


def test_a_class_can_be_drawn(served: Served) -> None:
    drawn = served.client.sample("shells", 5, seed=1, label=2)
    assert drawn.images.shape == (5, *SHAPE.hwc)
    assert not np.array_equal(drawn.images, served.client.sample("shells", 5, seed=1, label=0).images)


def test_the_open_inference_protocol_has_the_logits(served: Served) -> None:
    request = oip.ModelInferRequest(model_name="shells.classify")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[4, *SHAPE.hwc])
    assert tensor.name == "image"
    request.raw_input_contents.append(IMAGES[:4].tobytes())
    with grpc.insecure_channel(served.server.address) as channel:
        reply = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE)
    logits = np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(4, 3)
    np.testing.assert_array_equal(logits, served.client.classify("shells", IMAGES[:4]).logits)


def test_a_model_that_cannot(served: Served) -> None:
    with pytest.raises(RoleNotSupported, match="classify"):
        served.client.classify("codes", IMAGES)


def test_the_command(served: Served, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES[:3])
    command = [str(Path(sys.executable).parent / "ancestral"), "classify", "shells", str(tmp_path / "images.npy")]
    flags = ["--address", served.server.address, "--out", str(tmp_path / "classes.npz")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True, timeout=120)
    found = served.client.classify("shells", IMAGES[:3])
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert names == found.names
    with np.load(tmp_path / "classes.npz") as arrays:
        np.testing.assert_array_equal(arrays["logits"], found.logits)
    done = subprocess.run([*command, *flags, "--json"], capture_output=True, text=True, check=True, timeout=120)
    assert [row["label"] for row in json.loads(done.stdout)] == found.labels.tolist()
