"""What a person sees while a training runs: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ancestral.terminal import console
from ancestral.text import shown
from ancestral_exporter.models.base import Figure

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
# Lines of progress over a whole training, where there is no terminal.
_LINES = 10


class Announcer:
    """Prints sentences about one recipe."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name

    def say(self, text: str) -> None:
        self.console.print(shown(f"{self.name}: {text}"), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def __getstate__(self) -> dict[str, Any]:
        # A console holds locks; a process of its own gets a console of its own.
        return {"name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.console, self.name = console(), state["name"]
        hush()


class ProgressBar(Callback):
    """Epochs, the loss and the validation figure that chooses the weights, of the first device."""

    def __init__(self, announce: Announcer, figure: Figure) -> None:
        self.announce, self.figure = announce, figure
        self.bar: Progress | None = None
        self.task: Any = None
        self.figures = ""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not self.announce.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("epochs {task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.announce.console,
            expand=True,
        )
        assert trainer.max_epochs is not None
        self.task = self.bar.add_task(
            self.announce.name, total=trainer.max_epochs, completed=trainer.current_epoch, figures=""
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None:
            done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self.bar.update(self.task, completed=round(done, 2))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        seen = trainer.callback_metrics
        parts = []
        if "train_loss" in seen:
            parts.append(f"loss {float(seen['train_loss']):.1f}")
        if (score := f"validation_{self.figure.name}") in seen:
            parts.append(f"validation {float(seen[score]):.3f} {self.figure.unit}")
        epoch, total = trainer.current_epoch + 1, trainer.max_epochs or 1
        if self.bar is not None:
            self.bar.update(self.task, total=total, completed=epoch, figures=", ".join(parts))
        elif epoch * _LINES // total > (epoch - 1) * _LINES // total:
            self.announce.say(f"epoch {epoch}/{total}, {', '.join(parts)}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def hush() -> None:
    """Without the tips and warnings of Lightning and torch, for good: a person watches a progress bar."""
    warnings.simplefilter("ignore")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def hushed() -> Iterator[None]:
    """Hushed inside, as before outside."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        hush()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
