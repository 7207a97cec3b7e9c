"""Fits a model: a Lightning module, and `fit`, which resumes what was interrupted.

Every random draw is seeded by (seed, step) or (seed, epoch), so a training that was interrupted and resumed ends with
bitwise the weights of one that was not. Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ancestral_exporter.augmentation import shifted
from ancestral_exporter.checkpoints import CHECKPOINT, Memory, ReplacingIO, resumable, saved_state
from ancestral_exporter.data import Dataset as ImageData
from ancestral_exporter.data import Split
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.models.base import OBJECTIVE, ImageModel
from ancestral_exporter.progress import Announcer, ProgressBar, hushed
from ancestral_exporter.recipes import Recipe

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_VALIDATION_BATCH = 250
_VALIDATION_SEED = 1


class Interrupted(ExporterError):
    """Somebody stopped the training; the checkpoint is there."""

    exit_code = 130


@dataclass(frozen=True)
class Options:
    """What a run may choose beside the recipe. precision: a key of PRECISIONS. devices: "auto" or a number."""

    seed: int = 0
    precision: str = "32"
    devices: str = "auto"


@dataclass(frozen=True)
class Fitted:
    """A trained model on the CPU in evaluation mode, and how it went.

    history: one row per validation. seconds: wall time of fitting, over all attempts. resumed_epoch: epochs that an
    earlier attempt had done.
    """

    model: ImageModel
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    resumed_epoch: int


Batch = tuple[Tensor, Tensor]  # images [N,H,W,C] uint8 and their classes [N] int64


class Images(Dataset[Batch]):
    """The images of a split and their classes, fetched a batch at a time."""

    def __init__(self, split: Split) -> None:
        self.images = torch.from_numpy(split.images.copy())
        self.labels = torch.from_numpy(split.labels.copy())

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.images[indices], self.labels[indices]


class Fitting(lightning.LightningModule):
    """The loss, the optimiser and the averaged weights of a recipe."""

    def __init__(self, model: ImageModel, recipe: Recipe, data: ImageData, seed: int) -> None:
        super().__init__()
        self.model, self.recipe, self.data, self.seed = model, recipe, data, seed
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        # The first step whose loss was no number, -1 while there is none: a tensor, so that no step waits for a GPU.
        self.diverged: Tensor
        self.register_buffer("diverged", torch.tensor(-1), persistent=False)

    def _loader(self, split: Split, batch: int, shuffle: bool) -> DataLoader[Batch]:
        # The sampler for distributed training shuffles by (seed, epoch) alone, with one device too.
        sampler: DistributedSampler[Batch] = DistributedSampler(
            Images(split), self.trainer.world_size, self.trainer.global_rank, shuffle=shuffle, seed=self.seed
        )
        size = max(1, batch // self.trainer.world_size)
        return DataLoader(Images(split), size, sampler=sampler, collate_fn=_as_is)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.data.train, self.recipe.schedule.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.data.validation, _VALIDATION_BATCH, shuffle=False)

    def on_train_epoch_start(self) -> None:
        self.average.eval()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """What the family minimises, as a mean over the images of the batch."""
        images, labels = batch
        torch.manual_seed((self.seed << 32) + self.global_step * self.trainer.world_size + self.global_rank)
        images = shifted(images, self.recipe.data.shift)
        if self.data.train.binarise:
            images = (torch.rand(images.shape, device=images.device) * 255 < images).to(torch.uint8) * 255
        progress = (self.global_step + 1) / self.trainer.estimated_stepping_batches
        terms = {name: values.mean() for name, values in self.model.training_terms(images, labels, progress).items()}
        loss = terms.pop(OBJECTIVE)
        first = (self.diverged < 0) & ~torch.isfinite(loss.detach())
        self.diverged = torch.where(first, self.global_step + 1, self.diverged)
        self._log("train", terms)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        # Young averages forget faster, so that the first weights do not linger.
        decay = min(self.recipe.schedule.average_decay, (1 + self.global_step) / (10 + self.global_step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Figures of the averaged weights, with the same noise every time."""
        images, labels = batch
        torch.manual_seed(_VALIDATION_SEED + index)
        terms = self.average.validation_terms(images, labels)
        self._log("validation", {name: values.mean() for name, values in terms.items()}, len(images))

    def _log(self, part: str, terms: Mapping[str, Tensor], count: int | None = None) -> None:
        values = {f"{part}_{name}": value.detach() for name, value in terms.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)

    def configure_optimizers(self) -> Any:
        schedule = self.recipe.schedule
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            # Fused saves a tenth of a small model's step, but Lightning will not clip it under mixed precision.
            fused=self.trainer.precision == "32-true",
        )
        steps = int(self.trainer.estimated_stepping_batches)
        rate = partial(one_cycle, warmup=schedule.warmup_fraction * steps, steps=steps)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def one_cycle(step: int, warmup: float, steps: int) -> float:
    """The share of the peak learning rate at a step from 0: up linearly over `warmup` steps, down by a cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))


def fit(recipe: Recipe, data: ImageData, work: Path, options: Options, announce: Announcer) -> Fitted:
    """Fit the recipe on `data`, validating by its validation images, with checkpoints in the folder `work`.

    Continues from the checkpoint in `work` when it is of the same settings, and starts afresh otherwise.
    Raises UsageError for a precision or devices that there are not, Interrupted when stopped by a person, and
    ExporterError when the training diverges before anything was validated; later it ends with the best weights.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / CHECKPOINT
    memory = Memory(checkpoint, fingerprint(recipe, options), f"validation_{recipe.model_type.figure.name}")
    resumed = resumable(checkpoint, memory.fingerprint, announce)
    torch.manual_seed(options.seed)
    module = Fitting(recipe.build(data.image), recipe, data, options.seed)
    with hushed():
        callbacks: list[Callback] = [ProgressBar(announce, recipe.model_type.figure), memory]
        trainer = _trainer(recipe, options, data.image.values, memory.score, callbacks)
        try:
            if not (resumed and saved_state(checkpoint)["finished"]):
                trainer.fit(module, ckpt_path=checkpoint if resumed else None)
        except (SystemExit, KeyboardInterrupt) as stop:  # Lightning turns Ctrl-C and SIGTERM into SystemExit
            raise Interrupted("interrupted; the same command continues where it was") from stop
    # From the file, as with several devices the training ran in processes of their own.
    state = saved_state(checkpoint)
    if state["diverged"] >= 0 or not state["best_weights"]:
        how = f"{recipe.name}: the training diverged: its loss is not a number from step {state['diverged']} on"
        if not state["best_weights"]:
            raise ExporterError(f"{how}; try a lower --set schedule.learning_rate or another --seed")
        announce.say(f"{how}; keeping the weights of epoch {state['best_epoch']}, the best before")
    model = module.model.cpu()
    model.load_state_dict(state["best_weights"])
    return Fitted(model.eval(), state["history"], state["best_epoch"], state["seconds"], resumed)


def fingerprint(recipe: Recipe, options: Options) -> str:
    """Equal for two trainings that must end with the same weights."""
    settings = {"recipe": recipe.settings(), "options": vars(options), "torch": torch.__version__}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _trainer(
    recipe: Recipe, options: Options, dimensions: int, score: str, callbacks: list[Callback]
) -> lightning.Trainer:
    schedule = recipe.schedule
    if options.precision not in PRECISIONS:
        raise UsageError(f"unknown precision {options.precision!r}; there are: {', '.join(PRECISIONS)}")
    if options.precision == "16" and not torch.cuda.is_available():
        raise UsageError("--precision 16 needs a GPU; on the CPU use 32 or bf16")
    if options.devices != "auto" and not (options.devices.isdecimal() and int(options.devices) > 0):
        raise UsageError(f"--devices must be auto or a number from 1, not {options.devices!r}")
    devices: int | str = options.devices if options.devices == "auto" else int(options.devices)
    if schedule.patience is not None:
        callbacks = [*callbacks, EarlyStopping(score, patience=schedule.patience, check_on_train_epoch_end=False)]
    try:
        return lightning.Trainer(
            accelerator="auto",
            devices=devices,
            # Processes that fit and end: what comes after belongs to this one alone.
            strategy="auto" if devices in ("auto", 1) else "ddp_spawn",
            precision=PRECISIONS[options.precision],  # type: ignore[arg-type]
            max_epochs=schedule.epochs,
            check_val_every_n_epoch=min(schedule.validate_every_epochs, schedule.epochs),
            gradient_clip_val=schedule.gradient_clip * dimensions or None,
            callbacks=callbacks,
            plugins=[ReplacingIO()],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise UsageError(f"--devices {options.devices}: {error}") from error


def _as_is(batch: Any) -> Any:
    return batch
