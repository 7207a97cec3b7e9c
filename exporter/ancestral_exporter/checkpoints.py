"""What survives an interruption: one file with the state of the training, its history and its best weights."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ancestral_exporter.errors import ExporterError
from ancestral_exporter.progress import Announcer

CHECKPOINT = "last.ckpt"
# Checkpoints cost a disk flush, so they are written this often at most: what an interruption can lose.
CHECKPOINT_EVERY_S = 5.0


@dataclass(frozen=True)
class Made:
    """Of what a training comes, and where: settings, those of its recipe; machine, in words; torch, its version."""

    settings: dict[str, Any]
    seed: int
    precision: str
    machine: str
    torch: str

    def same(self, other: Made) -> bool:
        """Whether both are trainings of the same, wherever."""
        ours, theirs = (
            json.dumps([made.settings, made.seed, made.precision], sort_keys=True) for made in (self, other)
        )
        return ours == theirs


class Memory(Callback):
    """Keeps the history and the best weights by `score`, all inside the checkpoint, and decides when to write it.

    A training whose loss is no number any more is stopped at the end of that epoch. One file that is replaced at once
    cannot disagree with itself, whenever the process dies.
    """

    state_key = "Memory"

    def __init__(self, path: Path, score: str, made: Made, fingerprint: str) -> None:
        """fingerprint: equal for two trainings that must end with the same weights."""
        self.path, self.score, self.made, self.fingerprint = path, score, made, fingerprint
        self.history: list[dict[str, float]] = []
        self.best_score, self.best_epoch = math.inf, 0
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.finished = False
        self.diverged = -1
        self._since = self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "made": vars(self.made),
            "history": self.history,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "finished": self.finished,
            "diverged": self.diverged,
            "seconds": self.seconds + time.monotonic() - self._since,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state_dict.items() if name not in ("fingerprint", "made")})

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._since = self._saved = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        average = pl_module.average
        assert isinstance(average, torch.nn.Module)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert isinstance(pl_module.diverged, Tensor)
        self.diverged = trainer.strategy.broadcast(int(pl_module.diverged))
        trainer.should_stop |= self.diverged >= 0
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        self.finished = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if self.finished and trainer.max_epochs is not None:
            # The clock may have set another number than the recipe has.
            schedule = self.made.settings["schedule"] | {"epochs": trainer.max_epochs}
            self.made = replace(self.made, settings=self.made.settings | {"schedule": schedule})
        if validated:
            row = {"epoch": trainer.current_epoch + 1.0, "step": float(trainer.global_step)}
            row["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
            self.history.append(row | figures)
            if self.diverged < 0 and figures[self.score] < self.best_score:
                self.best_score, self.best_epoch = figures[self.score], trainer.current_epoch + 1
                weights = average.state_dict()
                self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        due = self.finished or time.monotonic() - self._saved >= CHECKPOINT_EVERY_S
        # All devices must write together: the first one's clock decides.
        if trainer.strategy.broadcast(due):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()


class ReplacingIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, flushes it, and then takes its place: never a half-written file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch speaks of a position in the file, and keeps what the disk said.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise ExporterError(f"{path}: cannot be written: {getattr(cause, 'strerror', '') or cause}") from error


def slim(checkpoint: dict[str, Any]) -> None:
    """Leave out of a finished training's checkpoint what only its continuation would need."""
    if checkpoint["callbacks"][Memory.state_key]["finished"]:
        for name in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
            checkpoint.pop(name, None)


def resumable(checkpoint: Path, wanted: Memory, announce: Announcer) -> int:
    """Epochs done by the checkpoint if it serves, else 0 and the checkpoint is gone.

    An unfinished one must be of the same settings, versions and options, since it goes on bit by bit; a finished one
    of the same settings serves wherever it was trained.
    """
    if not checkpoint.exists():
        return 0
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state, epochs = found["callbacks"][Memory.state_key], int(found["epoch"]) + 1
        same = state["fingerprint"] == wanted.fingerprint
        if not same and state["finished"]:
            same = Made(**state["made"]).same(wanted.made)
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, EOFError, ValueError, TypeError) as error:
        announce.say(f"the checkpoint {checkpoint} cannot be read ({type(error).__name__}): starting afresh")
        same = False
    else:
        if same and state["finished"]:
            announce.say(f"trained already, {epochs} epochs, on {state['made']['machine']}")
        elif same:
            announce.say(f"continuing an interrupted training after epoch {epochs}")
        else:
            announce.say("an interrupted training had other settings: starting afresh")
    if not same:
        checkpoint.unlink()
        return 0
    return epochs


def finished(checkpoint: Path) -> Made | None:
    """Of what the finished training in a checkpoint comes; None where there is none."""
    try:
        state = saved_state(checkpoint)
        return Made(**state["made"]) if state["finished"] else None
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, EOFError, ValueError, TypeError):
        return None


def saved_state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"][Memory.state_key]
    return state
