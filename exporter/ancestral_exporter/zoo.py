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
from typing import Any

import torch

from ancestral.bundle.manifest import MANIFEST
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.promote import promote_bundle
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.make import make
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find
from ancestral_exporter.terminal import console
from ancestral_exporter.training import Interrupted, Options

LIST = "zoo.toml"


@dataclass(frozen=True)
class Entry:
    """What the zoo wants: a recipe, and the passes over its data that a GPU, or some cores, can be asked for."""

    recipe: str
    gpu_epochs: int
    cpu_epochs: int

    def chosen(self, *, gpu: bool) -> Recipe:
        return find(self.recipe, [f"schedule.epochs={self.gpu_epochs if gpu else self.cpu_epochs}"])


def wanted(zoo: Path) -> list[Entry]:
    """The entries of ZOO/zoo.toml, the most wanted first. Raises UsageError."""
    try:
        table = tomllib.loads((zoo / LIST).read_text(encoding="utf-8"))
        return [Entry(**entry) for entry in table["bundle"]]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{zoo / LIST}: {error}") from error


def trained(folder: Path, recipe: Recipe) -> Path | None:
    """The bundle in a folder of models that this recipe has made, with as many epochs or more; else None."""
    now = json.loads(json.dumps(recipe.settings()))
    for manifest in sorted((folder / recipe.name).glob(f"*/{MANIFEST}")):
        before = json.loads(read_manifest(manifest.parent).provenance.get("settings", "{}"))
        epochs = before.get("schedule", {}).get("epochs", 0)
        if epochs >= recipe.schedule.epochs and _but_for_epochs(before) == _but_for_epochs(now):
            return manifest.parent
    return None


def _but_for_epochs(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"schedule": {**settings.get("schedule", {}), "epochs": None}}


def figure(manifest: bundle_pb2.Bundle) -> float:
    """The first validation metric, which chooses a family's weights: the smaller, the better."""
    return next((metric.value for metric in manifest.metrics if metric.split == "validation"), float("inf"))


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
        recipe = entry.chosen(gpu=gpu)
        if trained(zoo, recipe):
            say.say(f"{recipe.name} is there")
            continue
        bundle = trained(models, recipe)
        if bundle is None:
            bundle = make(recipe, models, data, Options(), Announcer(say.console, recipe.name)).path
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
