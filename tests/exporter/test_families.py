"""Every family trains, resumes to the very same weights after an interruption, and exports what verifies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import json_format

from ancestral.v1 import bundle_pb2
from ancestral_exporter import checkpoints, progress, training
from ancestral_exporter.data import DataSettings, load
from ancestral_exporter.make import make
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import find
from ancestral_exporter.training import Options, fit

SMALL = {
    "digits-vae": ["model.channels=4", "model.features=16", "model.free_bits=0.1"],
    "digits-pixelcnn": ["model.channels=8", "model.head_channels=8", "model.vertical_layers=2"],
    "digits-pixelcnn-masked": ["model.size=4", "model.layers=1", "model.head_channels=8"],
    "digits-pixelrnn": ["model.size=4", "model.layers=1", "model.head_channels=8"],
    "digits-autoencoder": ["model.channels=4", "model.features=16"],
    "digits-semi-supervised": ["model.channels=4", "model.features=16", "model.latent_size=4"],
    "digits-gan": ["model.channels=4", "model.features=16", "model.latent_size=4"],
}
SCHEDULE = ["schedule.epochs=3", "schedule.batch_size=100", "schedule.validate_every_epochs=1"]


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_training_ends_the_same(
    name: str, tmp_path: Path, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    recipe, digits = find(name, [*SMALL[name], *SCHEDULE]), load(DataSettings("digits"))
    whole = fit(recipe, digits, tmp_path / "whole", Options(), announcer)

    class Stop(progress.ProgressBar):
        """Presses Ctrl-C in the middle of the second epoch."""

        def on_train_batch_end(self, trainer: Any, *rest: Any, **named: Any) -> None:
            if trainer.global_step == 15:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training, "ProgressBar", Stop)
        with pytest.raises(training.Interrupted):
            fit(recipe, digits, tmp_path / "work", Options(), announcer)
    resumed = fit(recipe, digits, tmp_path / "work", Options(), announcer)
    assert resumed.resumed_epoch == 1
    assert resumed.history == whole.history
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["digits-autoencoder", "digits-gan"])
def test_a_family_without_a_likelihood_says_so(name: str, tmp_path: Path, announcer: Announcer) -> None:
    made = make(find(name, [*SMALL[name], *SCHEDULE]), tmp_path, None, Options(), announcer)
    manifest = json_format.Parse((made.path / "bundle.json").read_text(), bundle_pb2.Bundle())
    assert all(role.likelihood == bundle_pb2.LIKELIHOOD_UNSPECIFIED for role in manifest.roles)
    metrics = {metric.name for metric in manifest.metrics}
    assert not metrics & {"bits_per_dim", "negative_log_likelihood", "negative_log_density"}
    assert metrics == set(made.evaluations[-1].terms)
    card = (made.path / "CARD.md").read_text()
    assert "**This family has no likelihood**" in card
    assert "bits/dim |" not in card
