"""Training learns, resumes to the very same weights, and survives being killed. Real trainings, seconds long."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from ancestral_exporter import checkpoints, progress, training
from ancestral_exporter.data import Dataset, DataSettings, Split, load, repeated
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find
from ancestral_exporter.training import Batches, Fitted, Options, fingerprint, fit


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataSettings("digits"))


def same_weights(one: Fitted, other: Fitted) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_learns_and_records(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    fitted = fit(tiny, digits, tmp_path, Options(), announcer)
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]
    assert fitted.history[-1]["step"] == 40
    scores = [row["validation_bits_per_dim"] for row in fitted.history]
    assert scores[-1] < scores[0] - 0.5
    assert scores[-1] < 3.5  # the uniform model has 4.09
    assert fitted.best_epoch == 1 + int(np.argmin(scores))
    assert {"train_loss", "train_kl", "train_reconstruction", "learning_rate"} <= fitted.history[0].keys()
    assert fitted.resumed_epoch == 0
    assert not fitted.model.training


def test_same_seed_same_weights(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    runs = [fit(tiny, digits, tmp_path / str(i), Options(seed=seed), announcer) for i, seed in enumerate((5, 5, 6))]
    assert same_weights(runs[0], runs[1])
    assert runs[0].history == runs[1].history
    assert not same_weights(runs[0], runs[2])


@pytest.mark.parametrize("matrix_rate", [None, 0.02], ids=["AdamW", "Muon"])
def test_resumes_to_the_same_weights(
    matrix_rate: float | None,
    tiny: Recipe,
    digits: Dataset,
    tmp_path: Path,
    announcer: Announcer,
    said: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    tiny = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, matrix_learning_rate=matrix_rate))
    whole = fit(tiny, digits, tmp_path / "whole", Options(), announcer)

    class Stop(progress.ProgressBar):
        """Presses Ctrl-C in the middle of the third epoch."""

        def on_train_batch_end(self, trainer: Any, *rest: Any, **named: Any) -> None:
            if trainer.global_step == 25:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training, "ProgressBar", Stop)
        with pytest.raises(training.Interrupted, match="the same command continues"):
            fit(tiny, digits, tmp_path / "work", Options(), announcer)
    resumed = fit(tiny, digits, tmp_path / "work", Options(), announcer)
    assert resumed.resumed_epoch == 2
    assert "continuing an interrupted training after epoch 2" in said.getvalue()
    assert same_weights(whole, resumed)
    assert resumed.history == whole.history


def test_survives_a_kill_in_the_middle_of_a_checkpoint(
    tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process leaves is what lies on the disk then: a copy of it, from the middle of a training."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    save, work, left = torch.save, tmp_path / "work", tmp_path / "left"
    saved = 0

    def copied(value: object, file: BinaryIO) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            file.write(b"half a checkpoint")
            file.flush()
            shutil.copytree(work, left)
            file.seek(0)
            file.truncate()
        save(value, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", copied)
        whole = fit(tiny, digits, work, Options(), announcer)
    assert (left / "last.partial").read_bytes() == b"half a checkpoint"
    resumed = fit(tiny, digits, left, Options(), announcer)
    assert resumed.resumed_epoch == 2
    assert same_weights(resumed, whole)


def test_other_settings_or_a_broken_checkpoint_start_afresh(
    tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer, said: io.StringIO
) -> None:
    short = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=1))
    fit(short, digits, tmp_path, Options(), announcer)
    assert fit(short, digits, tmp_path, Options(seed=1), announcer).resumed_epoch == 0
    assert "had other settings: starting afresh" in said.getvalue()
    (tmp_path / checkpoints.CHECKPOINT).write_bytes((tmp_path / checkpoints.CHECKPOINT).read_bytes()[:5000])
    assert fit(short, digits, tmp_path, Options(seed=1), announcer).resumed_epoch == 0
    assert "cannot be read" in said.getvalue()


def test_a_finished_training_is_not_repeated(
    tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer
) -> None:
    """Killed after the last epoch, before the bundle was written."""
    first = fit(tiny, digits, tmp_path, Options(), announcer)
    again = fit(tiny, digits, tmp_path, Options(), announcer)
    assert again.resumed_epoch == 4
    assert same_weights(first, again)


def test_every_setting_is_in_the_fingerprint(tiny: Recipe) -> None:
    longer = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=9))
    wider = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, channels=5))
    prints = {fingerprint(recipe, Options()) for recipe in (tiny, longer, wider)}
    prints |= {
        fingerprint(tiny, options)
        for options in (
            Options(seed=1),
            Options(precision="bf16"),
            Options(devices="1"),
            Options(minutes=1),
            Options(compile=True),
        )
    }
    assert len(prints) == 8
    assert fingerprint(tiny, Options()) in prints


def test_stops_early(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    """Of two training images nothing is learnt that validates better for long."""
    few = dataclasses.replace(digits, train=Split(digits.train.images[:2], digits.train.labels[:2]))
    schedule = dataclasses.replace(tiny.schedule, epochs=2000, learning_rate=0.1, average_decay=0.0, patience=2)
    fitted = fit(dataclasses.replace(tiny, schedule=schedule), few, tmp_path, Options(), announcer)
    assert len(fitted.history) < 2000
    assert fitted.best_epoch == len(fitted.history) - 2
    # The end is remembered too.
    again = fit(dataclasses.replace(tiny, schedule=schedule), few, tmp_path, Options(), announcer)
    assert again.history == fitted.history


def test_ends_by_the_clock_with_the_cycle(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    """With no time left after the first epoch, the second is the last, and the learning rate ends there."""
    schedule = dataclasses.replace(tiny.schedule, epochs=1000, validate_every_epochs=7, patience=None)
    endless = dataclasses.replace(tiny, schedule=schedule)
    fitted = fit(endless, digits, tmp_path, Options(minutes=1e-6), announcer)
    assert fitted.epochs == 2
    (last,) = fitted.history
    assert last["epoch"] == 2
    assert last["learning_rate"] < 1e-6
    # What the clock has decided is the recipe's from then on.
    again = fit(endless.with_epochs(2), digits, tmp_path, Options(), announcer)
    assert again.resumed_epoch == 2
    assert same_weights(fitted, again)


def test_each_device_has_its_share_of_an_epoch() -> None:
    split = Split(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))
    epochs = iter((3, 3, 4))
    shares = [Batches(split, 2, torch.device("cpu"), rank, 3, lambda: 3) for rank in range(3)]
    seen = [torch.cat([labels for _, labels in share]) for share in shares]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert set(torch.cat(seen).tolist()) == set(range(10))
    assert [len(labels) for labels in seen] == [4, 4, 4]
    one = Batches(split, 4, torch.device("cpu"), 0, 1, lambda: next(epochs), whole=True)
    first, again, other = (torch.cat([images.flatten() for images, _ in one]) for _ in range(3))
    assert len(first) == 8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_compiled_steps_train_and_leave_a_plain_net(
    tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a compiler that changes nothing: what is compiled is the family's regions, and a net comes back without."""
    compiled = []

    def compiling(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiling)
    fitted = fit(tiny, digits, tmp_path, Options(compile=True), announcer)
    assert compiled == 2 * [{"fullgraph": True, "dynamic": False}]
    assert all(region._compiled_call_impl is None for region in fitted.model.regions())
    assert fitted.history[-1]["validation_bits_per_dim"] < 3.5


def test_a_compiler_that_fails_loses_no_training(
    tiny: Recipe,
    digits: Dataset,
    tmp_path: Path,
    announcer: Announcer,
    said: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(function: Any, **options: Any) -> Any:
        def call(*inputs: torch.Tensor) -> torch.Tensor:
            raise OSError("no space for a compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    fitted = fit(tiny, digits, tmp_path, Options(compile=True), announcer)
    assert "training without compiled steps (OSError: no space for a compiler)" in said.getvalue()
    assert len(fitted.history) == 4


def test_binarised_data_and_a_pixelcnn(tiny: Recipe, tmp_path: Path, announcer: Announcer) -> None:
    """Grey training images of one intensity are learnt as Bernoulli(intensity): each draw is another one."""
    random = np.random.default_rng(0)
    digits = load(DataSettings("digits"))
    grey = Split(np.full((400, 8, 8, 1), 51, np.uint8), np.zeros(400, np.int64), binarise=True)
    drawn = Split((random.random((500, 8, 8, 1)) < 0.2).astype(np.uint8) * 255, np.zeros(500, np.int64))
    data = dataclasses.replace(
        digits, image=dataclasses.replace(digits.image, levels=2), train=grey, validation=drawn, test=drawn
    )
    settings = PixelCNNSettings(channels=8, vertical_layers=2, horizontal_layers=2, dropout=0.1)
    schedule = dataclasses.replace(tiny.schedule, epochs=10, batch_size=20, learning_rate=1e-2, average_decay=0.9)
    recipe = dataclasses.replace(tiny, model_type=GatedPixelCNN, model=settings, schedule=schedule)
    fitted = fit(recipe, data, tmp_path, Options(), announcer)
    assert next(fitted.model.parameters()).dtype == torch.float32
    assert fitted.history[0]["validation_bits_per_dim"] < 4


def test_two_devices(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    """Two processes on the CPU share each batch; the weights come back to this one."""
    short = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=2))
    fitted = fit(short, digits, tmp_path, Options(devices="2"), announcer)
    assert fitted.history[-1]["step"] == 20
    assert fitted.history[-1]["validation_bits_per_dim"] < 3.9


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (Options(precision="8"), "unknown precision '8'"),
        (Options(devices="none"), "--devices must be auto or a number"),
        (Options(devices="0"), "--devices must be auto or a number"),
    ],
)
def test_wrong_options(
    tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer, options: Options, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        fit(tiny, digits, tmp_path, options, announcer)


def test_divergence_is_an_error(tiny: Recipe, digits: Dataset, tmp_path: Path, announcer: Announcer) -> None:
    wild = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, learning_rate=1e30))
    with pytest.raises(ExporterError, match="diverged: its loss is not a number from step 2 on"):
        fit(wild, digits, tmp_path, Options(), announcer)


def test_a_checkpoint_that_does_not_fit_keeps_the_one_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoints.ReplacingIO().save_checkpoint({"weights": torch.zeros(10)}, checkpoint)
    before = checkpoint.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ExporterError, match=r"last\.ckpt: cannot be written: File too large$"):
            checkpoints.ReplacingIO().save_checkpoint({"weights": torch.zeros(100_000)}, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_shift_that_leaves_nothing_is_refused() -> None:
    recipe = find("digits-vae", ["data.shift=8"])
    with pytest.raises(UsageError, match=r"digits-vae: data.shift is 8, and images are 8×8: it must be smaller"):
        recipe.build(load(recipe.data).image)


def test_an_epoch_has_a_labelled_image_as_often_as_the_recipe_says(tmp_path: Path, announcer: Announcer) -> None:
    small = ["model.channels=2", "model.features=4", "schedule.epochs=1", "schedule.batch_size=100"]
    recipe = find("digits-semi-supervised", ["data.labelled=50", "data.labelled_copies=4", *small])
    data = load(recipe.data)
    assert np.bincount(data.train.labels + 1).tolist() == [950, *[5] * 10]
    often = repeated(data.train, 4)
    assert np.bincount(often.labels + 1).tolist() == [950, *[20] * 10]
    one, other = (np.unique(split.images[split.labels >= 0], axis=0) for split in (data.train, often))
    np.testing.assert_array_equal(one, other)
    assert repeated(data.train, 1) is data.train
    assert fit(recipe, data, tmp_path, Options(), announcer).history[0]["step"] == math.ceil(len(often) / 100)
