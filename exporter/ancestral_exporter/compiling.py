"""Compiles the regions of a model for its training, where that works here."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from ancestral_exporter.progress import Announcer

# torch's own errors of compiling are RuntimeErrors; a compiler may lack, or be one that cannot be run.
_FAILURES = (RuntimeError, OSError, ImportError, subprocess.SubprocessError)


class Compiling(Callback):
    """Compiles regions and tries them before the first step; the training goes on without if that fails.

    attempt: all that a step of the training computes with the regions, without making the step. Regions that differ in
    weights alone share what is compiled. Afterwards they are as before: a graph that is exported must be the plain one.
    """

    def __init__(self, regions: Sequence[nn.Module], attempt: Callable[[], None], announce: Announcer) -> None:
        self.regions, self.attempt, self.announce = regions, attempt, announce

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        begun = time.monotonic()
        # torch takes many forms of one function for a fault, and a region may have one for each of its dilations.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(self.regions))
        try:
            for region in self.regions:
                region.compile(fullgraph=True, dynamic=False)
            self.attempt()
        except _FAILURES as error:
            self._undo()
            self.announce.say(f"training without compiled steps ({_why(error)})")
        else:
            self.announce.say(f"compiled the steps in {time.monotonic() - begun:.0f} s")
        pl_module.zero_grad()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._undo()

    def _undo(self) -> None:
        for region in self.regions:
            region._compiled_call_impl = None


def _why(error: Exception) -> str:
    if not (shutil.which("g++") or shutil.which("gcc")):
        return "there is no C++ compiler here"
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
