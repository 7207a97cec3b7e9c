"""How far a training is, which its learning rate follows: by its steps, or by the clock."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

# In so many parts a training by the clock is divided for its learning rate.
_PARTS = 100_000
# What an epoch takes is followed this fast: others may come and go on the machine.
_FOLLOW = 0.6


class Pace(Callback):
    """The share of a training that a step completes, and the learning rate there.

    epochs: of the training, at most where there are `minutes`: the wall time that it has, over all attempts. Before
    each epoch it is then planned anew how many more fit, and the rest of the cycle is spread over them, so that the
    learning rate ends where the time does, after a whole epoch. The last epoch is always validated.
    """

    state_key = "Pace"

    def __init__(self, epochs: int, minutes: float | None, warmup: float) -> None:
        self.epochs, self.minutes, self.warmup = epochs, minutes, warmup
        self.trainer: lightning.Trainer | None = None
        # Of the epoch that runs: the shares at its begin and at its end.
        self.begin = self.end = 0.0
        self.used_s, self.epoch_s = 0.0, 0.0
        self._since = self._epoch_since = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.trainer = trainer
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"end": self.end, "epoch_s": self.epoch_s, "used_s": self._used()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def _used(self) -> float:
        return self.used_s + time.monotonic() - self._since

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        now, epoch = time.monotonic(), trainer.current_epoch
        if self.minutes is not None:
            if self._epoch_since:
                took = now - self._epoch_since
                self.epoch_s = self.epoch_s + _FOLLOW * (took - self.epoch_s) if self.epoch_s else took
            self._epoch_since = now
            left_s = 60 * self.minutes - self._used()
            more = self.epochs - epoch
            if self.epoch_s:
                more = max(1, min(more, int(left_s / self.epoch_s)))
            self.begin, self.end = self.end, self.end + (1 - self.end) / more
            trainer.fit_loop.max_epochs = epoch + more
        if epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def share(self, step: int) -> float:
        """In (0,1], once so many steps are done."""
        trainer = self.trainer
        assert trainer is not None
        if self.minutes is None:
            return step / trainer.estimated_stepping_batches
        steps = trainer.num_training_batches
        return self.begin + (self.end - self.begin) * (step - trainer.current_epoch * steps) / steps

    def rate(self, step: int) -> float:
        """The share of the peak learning rate of the step after so many."""
        assert self.trainer is not None
        if self.minutes is None:
            steps = int(self.trainer.estimated_stepping_batches)
            return one_cycle(step, self.warmup * steps, steps)
        place = self.share(step) if step else 0.0
        return one_cycle(int(place * _PARTS), self.warmup * _PARTS, _PARTS)


def one_cycle(step: int, warmup: float, steps: int) -> float:
    """The share of the peak learning rate at a step from 0: up linearly over `warmup` steps, down by a cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))
