"""Somebody else's ONNX files, imported by the command and served: a classifier, and an encoder of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import foreign
from ancestral_client import Client
from entrypoints import call
from running import ServerProcess


def test_a_classifier_and_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    models, names = tmp_path / "models", tmp_path / "names.txt"
    names.write_text("cat\ndog\nnewt\nowl\npike\n")
    classifier, encoder = foreign.classifier(tmp_path / "c.onnx"), foreign.encoder(tmp_path / "e.onnx")
    for file, name, options in (
        (classifier, "animals", ("--role", "classify", "--scale", "imagenet", "--classes", str(names))),
        (encoder, "codes", ("--role", "encode", "--scale", "0..1", "--output", "mean=z_mean")),
    ):
        call("ancestral-exporter", "import", "onnx", str(file), str(models), "--name", name, *options)
        assert capsys.readouterr().out.endswith(f"wrote {models / name / '1'}\n")
    images = np.random.default_rng(1).integers(0, 256, (9, foreign.SIDE, foreign.SIDE, 3), dtype=np.uint8)
    grey = images[..., :1]
    with ServerProcess(models) as server, Client(server.address) as client:
        found = client.classify("animals", images)
        codes = client.encode("codes", grey)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    prepared = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(str(classifier)).run(None, {"x": prepared})
    np.testing.assert_allclose(found.logits, wanted, rtol=1e-4, atol=1e-3)
    assert found.names == [("cat", "dog", "newt", "owl", "pike")[i] for i in wanted.argmax(axis=1)]
    session = onnxruntime.InferenceSession(str(encoder))
    alone = [session.run(["z_mean"], {"pixels": (i / np.float32(255)).transpose(2, 0, 1)[None]})[0] for i in grey]
    np.testing.assert_allclose(codes.mean, np.concatenate(alone).reshape(9, -1), rtol=1e-4, atol=1e-4)
