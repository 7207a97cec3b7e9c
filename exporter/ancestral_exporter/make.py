"""From a recipe to a bundle: data, fit, evaluate, export, verify, write."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ancestral.v1 import bundle_pb2
from ancestral_exporter import card, data, plots
from ancestral_exporter.bundle import check_home, write_bundle
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.kernel import give_or_say
from ancestral_exporter.bundle.write import check_name
from ancestral_exporter.cost import measure_cost
from ancestral_exporter.errors import DataError, ExporterError
from ancestral_exporter.evaluate import Evaluation, evaluate
from ancestral_exporter.kernels.nvrtc import NoNvrtc, check_compiler
from ancestral_exporter.models import families
from ancestral_exporter.models.base import ImageModel, ImageShape, LikelihoodModel
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe
from ancestral_exporter.sampling import label_agreement, round_labels
from ancestral_exporter.served.bundle import Served
from ancestral_exporter.served.latents import Latents, measure_latents
from ancestral_exporter.served.likelihood import Likelihood, measure_likelihood
from ancestral_exporter.served.moments import measure_moments
from ancestral_exporter.training import Fitted, Options, fit

# Hidden, so that no server takes it for a model.
WORK = ".training"
_GOLDEN_IMAGES = 16
# Of the importance-weighted bound on the card: 12,500 scores bound its time. `evaluate` takes any numbers.
_BOUND_IMAGES, _BOUND_DRAWS = 250, 50
# Lines about a person's files that were left out.
_MOST_TOLD = 10


@dataclass(frozen=True)
class Made:
    """A bundle's folder, and what was measured on the way (nothing where there were no data)."""

    path: Path
    evaluations: tuple[Evaluation, ...]


def make(
    recipe: Recipe,
    models: Path,
    data_folder: Path | None,
    options: Options,
    announce: Announcer,
    kernels: Sequence[str] = (),
) -> Made:
    """Train, evaluate, export, verify and write the next version of `models/<recipe>`.

    With 0 epochs the model is untrained, and is measured only where the data are at hand.
    kernels: targets of machine code for GPUs; the bundle is written without any where there can be none, which is said.
    Raises ExporterError: missing data, a training that diverged or was interrupted, a graph that answers wrongly.
    """
    check_name(recipe.name)
    kernels = _possible(kernels, announce)
    with _work_folder(models, recipe.name, announce) as work, families.answering(recipe.family, recipe.model_type):
        check_home(models / recipe.name)
        images = _data(recipe, data_folder, announce)
        fitted: Fitted | None = None
        if recipe.schedule.epochs:
            assert images is not None
            fitted = fit(recipe, images, work, options, announce)
            # The clock may have set another number of epochs.
            recipe = recipe.with_epochs(fitted.epochs)
            model = fitted.model
        else:
            torch.manual_seed(options.seed)
            model = recipe.build(_shape(recipe, images)).eval()
        found: tuple[Evaluation, ...] = ()
        if images is not None:
            # The test images are looked at here, once, when nothing can be chosen any more.
            found = (evaluate(model, images.validation, "validation"), evaluate(model, images.test, "test"))
        announce.say("exporting and verifying")
        path = _write(
            recipe, model, models, images, options, fitted, found, partial(give_or_say, kernels, announce.say)
        )
        shutil.rmtree(work)
    return Made(path, found)


def _data(recipe: Recipe, folder: Path | None, announce: Announcer) -> data.Dataset | None:
    try:
        found = data.load(recipe.data, folder)
    except DataError:
        if recipe.schedule.epochs or folder is not None:
            raise
        return None
    announce.say(found.description)
    for line in found.left_out[:_MOST_TOLD]:
        announce.say(f"left out {line}")
    if len(found.left_out) > _MOST_TOLD:
        announce.say(f"left out {len(found.left_out) - _MOST_TOLD} more")
    labels = getattr(recipe.model, "label_count", 0)
    if recipe.model_type.needs_labels:
        there = 1 + int(max(split.labels.max() for split in (found.train, found.validation, found.test)))
        if there == 1 or there > labels:
            raise DataError(
                f"{recipe.name}: model.label_count is {labels}, and the images are of {there} "
                f"class{'es' if there > 1 else ''}; a classifier needs two or more, and a label for each"
            )
        found = dataclasses.replace(found, train=data.labelled_only(found.train))
    elif recipe.data.labelled is not None and not recipe.model_type.takes_unlabelled:
        raise DataError(
            f"{recipe.name}: data.labelled is for a family that learns from images without labels, or from labels alone"
        )
    if labels > 1 and recipe.data.source == "images" and not found.classes:
        raise DataError(
            f"{recipe.name}: model.label_count is {labels}, but the images are of one class or have none: set it to 0, "
            "or sort the images into a folder for each class"
        )
    if labels and labels < len(found.classes):
        raise DataError(
            f"{recipe.name}: model.label_count is {labels}, but the images are of {len(found.classes)} classes: "
            f"{', '.join(found.classes[:10])}"
        )
    return found


def _shape(recipe: Recipe, images: data.Dataset | None) -> ImageShape:
    shape = images.image if images else data.shape(recipe.data)
    if shape is None:
        raise DataError(f"{recipe.name}: without images the recipe must say data.size and data.colour")
    return shape


def _write(
    recipe: Recipe,
    model: ImageModel,
    models: Path,
    images: data.Dataset | None,
    options: Options,
    fitted: Fitted | None,
    found: tuple[Evaluation, ...],
    forms: Callable[[Path, bundle_pb2.Bundle], None],
) -> Path:
    made = card.provenance(recipe, options, model, fitted)
    shape = model.image

    def extras(folder: Path) -> list[bundle_pb2.Metric]:
        plots.write_samples(model, folder)
        agreement = label_agreement(model, folder, images) if images and fitted else None
        if fitted:
            unit = model.figure.unit
            if isinstance(model, LikelihoodModel) and not model.discrete:
                unit += " of a density (not comparable)"
            plots.write_metrics(fitted.history, folder)
            plots.write_curve(fitted.history, recipe.name, fitted.best_epoch, model.figure.name, unit, folder)
        text = images.description if images else f"none seen (the recipe is for {recipe.data.source})"
        levels = images.binarisation if images else "none"
        measured = card.Measured(
            found, agreement, measure_cost(model, folder), *_through_graphs(model, folder, images if fitted else None)
        )
        page = card.card(recipe, model, text, levels, measured, fitted, made)
        (folder / card.CARD).write_text(page, encoding="utf-8")
        return [agreement.metric()] if agreement else []

    def complete(folder: Path, manifest: bundle_pb2.Bundle) -> None:
        forms(folder, manifest)
        if images and fitted:
            served = Served(folder, manifest.roles, shape, model.label_count)
            manifest.training_moments.CopyFrom(measure_moments(served, images.train))

    if images:
        golden, labels = images.validation.images[:_GOLDEN_IMAGES], images.validation.labels[:_GOLDEN_IMAGES]
    else:
        random = np.random.default_rng(0)
        levels = random.integers(0, shape.levels, (_GOLDEN_IMAGES, shape.height, shape.width, shape.channels))
        golden = np.rint(levels * 255 / (shape.levels - 1)).astype(np.uint8)
        labels = round_labels(model, _GOLDEN_IMAGES)
    return write_bundle(
        model,
        name=recipe.name,
        models_dir=models,
        description=recipe.description + ("" if fitted else ", untrained"),
        metrics=[metric for evaluation in found for metric in evaluation.metrics()],
        provenance=made,
        golden_images=golden,
        golden_labels=labels,
        class_names=images.classes if images else (),
        extras=extras,
        complete=complete,
    )


def _through_graphs(
    model: ImageModel, folder: Path, images: data.Dataset | None
) -> tuple[Likelihood | None, Latents | None]:
    """The importance-weighted bound of the first test images, and what the latents tell of them; of a trained model."""
    if images is None:
        return None, None
    served = Served(folder, (role for graph in model.graphs() for role in graph_roles(graph)), model.image, 0)
    test, labels = images.test.images[:_BOUND_IMAGES], images.test.labels[:_BOUND_IMAGES]
    bound = None
    if model.likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND:
        density = isinstance(model, LikelihoodModel) and not model.discrete
        bound = measure_likelihood(served, test, labels, _BOUND_DRAWS, density=density)
    return bound, measure_latents(served, test)


def _possible(kernels: Sequence[str], announce: Announcer) -> Sequence[str]:
    """No kernels where there is no compiler for them: it is better known before a training than after it."""
    if kernels:
        try:
            check_compiler()
        except NoNvrtc as error:
            announce.say(f"the bundle gets no kernel: {error}")
            return ()
    return kernels


@contextmanager
def _work_folder(models: Path, name: str, announce: Announcer) -> Iterator[Path]:
    """The folder `models/.training/<name>`, held against another training of the same recipe at the same time."""
    home = models / WORK
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f"{name}.lock").open("w")
    except OSError as error:
        raise ExporterError(f"{models}: cannot write there ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # NFS may say either
                raise ExporterError(
                    f"another training of {name} is writing to {models}; wait for it or stop it"
                ) from None
            # Not every network or user-space file system has locks; a training is worth more than one.
            announce.say(
                f"{models} has no file locks ({error.strerror}): going on without; "
                f"start no other training of {name} there"
            )
        work = home / name
        work.mkdir(exist_ok=True)
        yield work
