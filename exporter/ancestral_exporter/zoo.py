"""`make train-zoo`: trains what the zoo still lacks, the most wanted first, and keeps what is better than before."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt

from ancestral.bundle.manifest import MANIFEST
from ancestral.terminal import console
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.checkpoints import CHECKPOINT, finished
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.make import WORK, make
from ancestral_exporter.models import families
from ancestral_exporter.models.base import Positive
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, data_from, find, from_settings, section
from ancestral_exporter.training import Interrupted, Options

LIST = "zoo.toml"


# What an entry may say of a training beside its epochs.
_OF_SCHEDULE = ("batch_size", "learning_rate", "validate_every_epochs")


@dataclass(frozen=True)
class Training:
    """How an entry is trained: passes over the images, and what takes the place of the recipe's, or of Options'."""

    epochs: Positive
    batch_size: Positive | None = None
    learning_rate: Annotated[float, Gt(0)] | None = None
    validate_every_epochs: Positive | None = None
    precision: Literal["32", "bf16", "16"] = "32"


@dataclass(frozen=True)
class Entry:
    """What the zoo wants: a recipe, and how a GPU trains it, or some cores; nobody does where it is not said."""

    recipe: str
    gpu: Training | None = None
    cores: Training | None = None

    def chosen(self, *, gpu: bool) -> tuple[Recipe, Options] | None:
        training = (self.gpu or self.cores) if gpu else self.cores
        if training is None:
            return None
        settings: dict[str, float] = {"epochs": training.epochs} | {
            name: value for name in _OF_SCHEDULE if (value := getattr(training, name)) is not None
        }
        recipe = find(self.recipe, [f"schedule.{name}={value}" for name, value in settings.items()])
        return recipe, Options(precision=training.precision)


def wanted(zoo: Path) -> list[Entry]:
    """The entries of ZOO/zoo.toml, the most wanted first. Raises UsageError that names the entry's key and value."""
    path = zoo / LIST
    try:
        bundles = tomllib.loads(path.read_text(encoding="utf-8"))["bundle"]
        return [section(entry, Entry, str(path), "[[bundle]]") for entry in bundles]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from error


def trained(folder: Path, recipe: Recipe) -> Path | None:
    """The bundle in a folder of models that serves for this recipe, by `_serves`; else None."""
    for manifest in sorted((folder / recipe.name).glob(f"*/{MANIFEST}")):
        if _serves(json.loads(read_manifest(manifest.parent).provenance.get("settings", "{}")), recipe):
            return manifest.parent
    return None


def fitted(models: Path, recipe: Recipe) -> tuple[Recipe, Options] | None:
    """The finished training that waits for its bundle, here or brought from elsewhere, if it serves for this recipe."""
    made = finished(models / WORK / recipe.name / CHECKPOINT)
    if made is None or not _serves(made.settings, recipe):
        return None
    return from_settings(made.settings), Options(made.seed, made.precision)


def _serves(before: dict[str, Any], recipe: Recipe) -> bool:
    """Whether settings are of the same model of the same data, by as many epochs or more: however it was trained.

    What they do not say was not there to be said when they were written, and is what a recipe gets that says nothing.
    """
    kind = recipe.model_type.settings_type
    try:
        model, data = section(before.get("model", {}), kind, "a bundle", "[model]"), data_from(before)
    except UsageError:
        return False
    enough = before.get("schedule", {}).get("epochs", 0) >= recipe.schedule.epochs
    return enough and (before.get("family"), model, data) == (recipe.family, recipe.model, recipe.data)


def figure(manifest: bundle_pb2.Bundle) -> float:
    """The validation figure that chooses the weights of its family: the smaller, the better."""
    name = families.find(manifest.family, Path()).model_type.figure.name
    found = (metric.value for metric in manifest.metrics if (metric.split, metric.name) == ("validation", name))
    return next(found, float("inf"))


def better(bundle: Path, zoo: Path) -> bool:
    """Whether the zoo has no bundle of that name, or only worse ones."""
    manifest = read_manifest(bundle)
    there = [read_manifest(path.parent) for path in (zoo / manifest.name).glob(f"*/{MANIFEST}")]
    return all(figure(manifest) < figure(other) for other in there)


def admit(bundle: Path, zoo: Path) -> Path:
    """Copy a bundle into the zoo as the next version of its name; the versions before it go."""
    path = promote_bundle(bundle, zoo).path
    for other in path.parent.iterdir():
        if other != path:
            shutil.rmtree(other)
    return path


def train_zoo(zoo: Path, models: Path, data: Path, names: Sequence[str], say: Announcer) -> None:
    """Train the entries one after the other. Raises Interrupted when it is stopped: the same call goes on there."""
    gpu = torch.cuda.is_available()
    entries = [entry for entry in wanted(zoo) if not names or entry.recipe in names]
    if unknown := set(names) - {entry.recipe for entry in entries}:
        raise UsageError(f"{zoo / LIST}: has no {', '.join(sorted(unknown))}")
    for entry in entries:
        chosen = entry.chosen(gpu=gpu)
        # What a GPU is needed for may have been trained elsewhere, by whatever epochs.
        recipe = chosen[0] if chosen else find(entry.recipe, ["schedule.epochs=1"])
        if trained(zoo, recipe):
            say.say(f"{recipe.name} is there")
            continue
        bundle = trained(models, recipe)
        if bundle is None:
            todo = fitted(models, recipe) or chosen
            if todo is None:
                say.say(f"{recipe.name} waits for a GPU")
                continue
            recipe, options = todo
            bundle = make(recipe, models, data, options, Announcer(say.console, recipe.name)).path
        if better(bundle, zoo):
            say.say(f"{recipe.name} becomes {admit(bundle, zoo)}")
        else:
            say.say(f"{recipe.name}: what the zoo has is as good, and stays")


@contextmanager
def at_most(minutes: float | None) -> Iterator[None]:
    """Interrupts what is within, as Ctrl-C would, after so many minutes."""
    if minutes is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make train-zoo", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that is served; it holds zoo.toml")
    parser.add_argument("--models", type=Path, required=True, help="where trainings go on, and what they made stays")
    parser.add_argument("--minutes", type=float, help="stop then; the next call goes on from the last whole epoch")
    parser.add_argument("recipes", nargs="*", help="only these of zoo.toml")
    options = parser.parse_args()
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes must be above 0, not {options.minutes:g}")
    try:
        with at_most(options.minutes):
            train_zoo(options.zoo, options.models, options.data, options.recipes, Announcer(console(), "zoo"))
    except (Interrupted, KeyboardInterrupt):
        sys.exit("zoo: stopped; the same command goes on where it was")
    except ExporterError as error:
        sys.exit(f"zoo: {error}")


if __name__ == "__main__":
    main()
