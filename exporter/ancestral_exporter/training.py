"""Fits a model: a Lightning module, and `fit`, which resumes what was interrupted.

Every random draw is seeded by (seed, step) or (seed, epoch), so a training that was interrupted and resumed ends with
bitwise the weights of one that was not. Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor

from ancestral_exporter.augmentation import shifted
from ancestral_exporter.checkpoints import CHECKPOINT, Made, Memory, ReplacingIO, resumable, saved_state, slim
from ancestral_exporter.compiling import Compiling
from ancestral_exporter.data import Dataset as ImageData
from ancestral_exporter.data import Split, repeated
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.machine import machine, rounding
from ancestral_exporter.models.base import OBJECTIVE, ImageModel
from ancestral_exporter.optimiser import Muon
from ancestral_exporter.pace import Pace
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
    """What a run may choose beside the recipe.

    precision: a key of PRECISIONS. devices: "auto" or a number. minutes: wall time in place of the recipe's epochs.
    compile: whether the family's regions are compiled; where None, if there is a GPU.
    """

    seed: int = 0
    precision: str = "32"
    devices: str = "auto"
    minutes: float | None = None
    compile: bool | None = None


@dataclass(frozen=True)
class Fitted:
    """A trained model on the CPU in evaluation mode, and how it went.

    history: one row per validation. seconds: wall time of fitting, over all attempts. resumed_epoch: epochs that an
    earlier attempt had done. epochs: of the whole training, which the clock may have set. machine, torch: where it was
    fitted, in words, and with which version.
    """

    model: ImageModel
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    resumed_epoch: int
    epochs: int
    machine: str
    torch: str


Batch = tuple[Tensor, Tensor]  # images [N,H,W,C] uint8 and their classes [N] int64


class Batches:
    """The images of a split and their classes, all on the device that computes; a batch is taken there, by index.

    Each epoch has an order of its own, by (seed, epoch) alone, of which every one of `world` devices has its share.
    Iterating gives one epoch of the batches of device `rank`.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        device: torch.device,
        rank: int,
        world: int,
        shuffle: Callable[[], int] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """size: images of a batch. shuffle: what seeds the order of the epoch that begins; None keeps the split's.

        whole: leave out the last batch where it would be smaller than the others, and not the only one.
        """
        self.whole = whole
        self.images = torch.from_numpy(split.images.copy()).to(device)
        self.labels = torch.from_numpy(split.labels.copy()).to(device)
        self.size, self.rank, self.world, self.shuffle = size, rank, world, shuffle

    def __len__(self) -> int:
        return -(-len(self._share(torch.arange(len(self.images)))) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.images)
        order = torch.arange(count)
        if self.shuffle is not None:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.shuffle()))
        for part in self._share(order).to(self.images.device).split(self.size):
            yield self.images[part], self.labels[part]

    def _share(self, order: Tensor) -> Tensor:
        """As many for each device: the first images again where they do not share out evenly."""
        share = torch.cat([order, order[: -len(order) % self.world]])[self.rank :: self.world]
        return share[: len(share) // self.size * self.size or None] if self.whole else share


class Fitting(lightning.LightningModule):
    """The loss, the optimiser and the averaged weights of a recipe."""

    def __init__(self, model: ImageModel, recipe: Recipe, data: ImageData, options: Options, pace: Pace) -> None:
        super().__init__()
        self.model, self.recipe, self.data, self.seed, self.pace = model, recipe, data, options.seed, pace
        self.whole_batches = bool(options.compile and model.regions())
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        # The first step whose loss was no number, -1 while there is none: a tensor, so that no step waits for a GPU.
        self.diverged: Tensor
        self.register_buffer("diverged", torch.tensor(-1), persistent=False)
        # Sums of this epoch's terms over its images, and how many those were.
        self._sums: Tensor | None = None
        self._count = 0

    def train_dataloader(self) -> Batches:
        def seed() -> int:
            return self.seed + self.trainer.current_epoch

        # A compiled step is of one shape.
        split = repeated(self.data.train, self.recipe.data.labelled_copies)
        return self._batches(split, self.recipe.schedule.batch_size, seed, whole=self.whole_batches)

    def attempt(self) -> None:
        """One batch forth and back, so that every error shows before a step is made of it."""
        images, labels = next(iter(self.train_dataloader()))
        with self.trainer.precision_plugin.forward_context():
            terms = self.model.training_terms(images, labels, 1.0)
        terms[OBJECTIVE].mean().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def val_dataloader(self) -> Batches:
        return self._batches(self.data.validation, _VALIDATION_BATCH)

    def _batches(
        self, split: Split, batch: int, shuffle: Callable[[], int] | None = None, *, whole: bool = False
    ) -> Batches:
        trainer = self.trainer
        size = max(1, batch // trainer.world_size)
        return Batches(split, size, self.device, trainer.global_rank, trainer.world_size, shuffle, whole=whole)

    def on_train_epoch_start(self) -> None:
        self.average.eval()
        self._sums, self._count = None, 0

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """What the family minimises, as a mean over the images of the batch."""
        images, labels = batch
        torch.manual_seed((self.seed << 32) + self.global_step * self.trainer.world_size + self.global_rank)
        images = shifted(images, self.recipe.data.shift)
        if self.data.train.binarise:
            images = (torch.rand(images.shape, device=images.device) * 255 < images).to(torch.uint8) * 255
        progress = self.pace.share(self.global_step + 1)
        terms = {name: values.mean() for name, values in self.model.training_terms(images, labels, progress).items()}
        loss = terms.pop(OBJECTIVE)
        first = (self.diverged < 0) & ~torch.isfinite(loss.detach())
        self.diverged = torch.where(first, self.global_step + 1, self.diverged)
        self._remember({name: value.detach() for name, value in terms.items()}, len(images))
        return loss

    def _remember(self, terms: Mapping[str, Tensor], count: int) -> None:
        """Add up the terms of a batch; the last batch of an epoch tells their means over its images."""
        sums = torch.stack([value.float() for value in terms.values()]) * count
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += count
        if self.trainer.is_last_batch:
            self._log("train", dict(zip(terms, (self._sums / self._count).unbind(), strict=True)))

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        # Young averages forget faster, so that the first weights do not linger.
        decay = min(self.recipe.schedule.average_decay, (1 + self.global_step) / (10 + self.global_step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Figures of the averaged weights, in float32 throughout, with the same noise every time."""
        images, labels = batch
        torch.manual_seed(_VALIDATION_SEED + index)
        with torch.autocast(self.device.type, enabled=False), rounding(exact=True):
            terms = self.average.validation_terms(images, labels)
        self._log("validation", {name: values.mean() for name, values in terms.items()}, len(images))

    def _log(self, part: str, terms: Mapping[str, Tensor], count: int | None = None) -> None:
        values = {f"{part}_{name}": value.detach() for name, value in terms.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=count or 1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        schedule = self.recipe.schedule
        settings: dict[str, Any] = {
            "lr": schedule.learning_rate,
            "betas": schedule.betas,
            "weight_decay": schedule.weight_decay,
            # Fused saves a tenth of a small model's step. With float16 it would undo the loss's scale after the clip.
            "fused": self.trainer.precision != PRECISIONS["16"],
        }
        optimizer: torch.optim.Optimizer
        if schedule.matrix_learning_rate is None:
            optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        else:
            optimizer = Muon(self.model, schedule.matrix_learning_rate, **settings)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, self.pace.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *of_trainer: Any, **also: Any) -> None:
        # By ourselves: Lightning clips no fused optimiser under mixed precision.
        if bound := self.recipe.schedule.gradient_clip * self.data.image.values:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), bound)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        slim(checkpoint)


def fit(recipe: Recipe, data: ImageData, work: Path, options: Options, announce: Announcer) -> Fitted:
    """Fit the recipe on `data`, validating by its validation images, with checkpoints in the folder `work`.

    Continues from the checkpoint in `work` when it is of the same settings, and starts afresh otherwise; one that is
    finished is taken wherever it was trained.
    Raises UsageError for a precision or devices that there are not, Interrupted when stopped by a person, and
    ExporterError when the training diverges before anything was validated; later it ends with the best weights.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / CHECKPOINT
    on_gpu = torch.cuda.is_available()
    if options.compile is None:
        options = dataclasses.replace(options, compile=on_gpu)
    memory = Memory(
        checkpoint,
        f"validation_{recipe.model_type.figure.name}",
        Made(recipe.settings(), options.seed, options.precision, machine(), str(torch.__version__)),
        fingerprint(recipe, options),
    )
    resumed = resumable(checkpoint, memory, announce)
    torch.manual_seed(options.seed)
    schedule = recipe.schedule
    pace = Pace(schedule.epochs, options.minutes, schedule.warmup_fraction)
    module = Fitting(recipe.build(data.image), recipe, data, options, pace)
    if on_gpu:  # its convolutions are made for it
        module.to(memory_format=torch.channels_last)
    with hushed():
        callbacks: list[Callback] = [pace, ProgressBar(announce, recipe.model_type.figure), memory]
        if options.compile and (regions := module.model.regions()):
            callbacks.append(Compiling(regions, module.attempt, announce))
        trainer = _trainer(recipe, options, memory.score, callbacks)
        try:
            if not (resumed and saved_state(checkpoint)["finished"]):
                with rounding(exact=False):
                    trainer.fit(module, ckpt_path=checkpoint if resumed else None)
        except (SystemExit, KeyboardInterrupt) as stop:  # Lightning turns Ctrl-C and SIGTERM into SystemExit
            where = "continues where it was" if checkpoint.exists() else "begins anew, since no epoch was saved"
            raise Interrupted(f"interrupted; the same command {where}") from stop
    # From the file, as with several devices the training ran in processes of their own.
    state = saved_state(checkpoint)
    if state["diverged"] >= 0 or not state["best_weights"]:
        how = f"{recipe.name}: the training diverged: its loss is not a number from step {state['diverged']} on"
        if not state["best_weights"]:
            rate = "matrix_learning_rate" if recipe.schedule.matrix_learning_rate else "learning_rate"
            raise ExporterError(f"{how}; try a lower --set schedule.{rate} or another --seed")
        announce.say(f"{how}; keeping the weights of epoch {state['best_epoch']}, the best before")
    model = module.model.cpu()
    model.load_state_dict(state["best_weights"])
    made = Made(**state["made"])
    epochs = made.settings["schedule"]["epochs"]
    return Fitted(
        model.eval(), state["history"], state["best_epoch"], state["seconds"], resumed, epochs, made.machine, made.torch
    )


def fingerprint(recipe: Recipe, options: Options) -> str:
    """Equal for two trainings that must end with the same weights."""
    settings = {"recipe": recipe.settings(), "options": vars(options), "torch": torch.__version__}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _trainer(recipe: Recipe, options: Options, score: str, callbacks: list[Callback]) -> lightning.Trainer:
    schedule = recipe.schedule
    if options.precision not in PRECISIONS:
        raise UsageError(f"unknown precision {options.precision!r}; there are: {', '.join(PRECISIONS)}")
    if options.precision == "16" and not torch.cuda.is_available():
        raise UsageError("--precision 16 needs a GPU; on the CPU use 32 or bf16")
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise UsageError(f"--minutes must be above 0, not {options.minutes:g}")
    if options.devices != "auto" and not (options.devices.isdecimal() and int(options.devices) > 0):
        raise UsageError(f"--devices must be auto or a number from 1, not {options.devices!r}")
    devices: int | str = options.devices if options.devices == "auto" else int(options.devices)
    if schedule.patience is not None and options.minutes is None:
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
