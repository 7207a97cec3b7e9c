"""`make train-zoo`: trains what the zoo still lacks, the most wanted first, and keeps what is better than before."""

from __future__ import annotations

import argparse
import shutil
import signal
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
from ancestral_exporter.bundle import check_home
from ancestral_exporter.bundle.manifest import read_manifest, settings_of
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.checkpoints import CHECKPOINT, finished
from ancestral_exporter.complaints import complaining, words
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.make import WORK, make
from ancestral_exporter.models import families
from ancestral_exporter.models.base import Positive
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, data_from, find, from_settings, read_toml, section
from ancestral_exporter.training import Interrupted, Options

LIST = "zoo.toml"
# Of one call: a year. A timer ends with the numbers that a machine has for time, and nobody waits for longer.
_MOST_MINUTES = 365 * 24 * 60

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
    table = read_toml(path, str(path))
    bundles = table.pop("bundle", None)
    if not isinstance(bundles, list) or table:
        others = f", not {', '.join(table)}" if table else ""
        raise UsageError(f"{path}: must hold a table [[bundle]] for each recipe{others}")
    return [section(entry, Entry, str(path), "[[bundle]]") for entry in bundles]


def trained(folder: Path, recipe: Recipe) -> Path | None:
    """The bundle in a folder of models that serves for this recipe, by `_serves`; else None."""
    for manifest in sorted((folder / recipe.name).glob(f"*/{MANIFEST}")):
        if _serves(settings_of(read_manifest(manifest.parent)), recipe):
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
        epochs = int(before["schedule"]["epochs"])
    except (UsageError, KeyError, TypeError, ValueError):
        return False
    same = (before.get("family"), model, data) == (recipe.family, recipe.model, recipe.data)
    return same and epochs >= recipe.schedule.epochs


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
    """Copy a bundle into the zoo as the next version of its name; the versions before it go, and nothing else."""
    path = promote_bundle(bundle, zoo).path
    for manifest in path.parent.glob(f"*/{MANIFEST}"):
        if manifest.parent != path:
            shutil.rmtree(manifest.parent)
    return path


@dataclass(frozen=True)
class Work:
    """What is wanted of an entry: a bundle that serves for this recipe; options, where this machine can train one."""

    recipe: Recipe
    options: Options | None


def work_of(entries: Sequence[Entry], *, gpu: bool) -> list[Work]:
    """What the entries want, read before the first of them takes its hours. Raises UsageError for a wrong recipe."""
    found = []
    for entry in entries:
        chosen = entry.chosen(gpu=gpu)
        # What a GPU is needed for may have been trained elsewhere, by whatever epochs.
        found.append(Work(*chosen) if chosen else Work(find(entry.recipe, ["schedule.epochs=1"]), None))
    return found


def train_zoo(zoo: Path, models: Path, data: Path, names: Sequence[str], say: Announcer) -> list[str]:
    """Train the entries one after the other. One that fails is told of and keeps none of the others waiting; the names
    of those that failed. Raises UsageError for a wrong list, and Interrupted when it is stopped: the same call goes on
    there.
    """
    entries = [entry for entry in wanted(zoo) if not names or entry.recipe in names]
    if unknown := set(names) - {entry.recipe for entry in entries}:
        raise UsageError(f"{zoo / LIST}: has no {', '.join(sorted(unknown))}")
    failed = []
    for work in work_of(entries, gpu=torch.cuda.is_available()):
        try:
            say.say(f"{work.recipe.name}{_done(work, zoo, models, data, say)}")
        except Interrupted:
            raise
        except Exception as error:
            # Another's lock, a loss that is no number, a full disk: what is wanted less may succeed.
            if (why := words(error)) is None:
                raise
            say.say(why)
            failed.append(work.recipe.name)
    return failed


def _done(work: Work, zoo: Path, models: Path, data: Path, say: Announcer) -> str:
    """Have the zoo hold what an entry wants, if that can be done here; how it ended."""
    recipe, options = work.recipe, work.options
    if trained(zoo, recipe):
        return " is there"
    bundle = trained(models, recipe)
    if bundle is None and (there := fitted(models, recipe)):
        recipe, options = there
    if bundle is None and options is None:
        return " waits for a GPU"
    # That the zoo cannot be written is known before a training, not after it.
    check_home(zoo / recipe.name)
    if bundle is None:
        assert options is not None
        bundle = make(recipe, models, data, options, Announcer(say.console, recipe.name)).path
    if not better(bundle, zoo):
        return ": what the zoo has is as good, and stays"
    return f" becomes {admit(bundle, zoo)}"


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
    if options.minutes is not None and not 0 < options.minutes <= _MOST_MINUTES:
        parser.error(f"--minutes must be above 0, and at most {_MOST_MINUTES} (a year), not {options.minutes:g}")
    with complaining("zoo"):
        try:
            with at_most(options.minutes):
                failed = train_zoo(
                    options.zoo, options.models, options.data, options.recipes, Announcer(console(), "zoo")
                )
        except Interrupted as stop:
            raise ExporterError(f"stopped: {stop}") from None
        except KeyboardInterrupt:
            raise ExporterError("stopped; the same command goes on where it was") from None
        if failed:
            raise ExporterError(f"not trained: {', '.join(failed)}; the same command tries again")


if __name__ == "__main__":
    main()
