"""Measures a bundle: every figure that its roles allow, and a reason for each that they do not.

Letters: N images, H, W, C image axes, Z latent dimensions, D numbers of an image, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.decomposition import PCA

from ancestral.v1 import bundle_pb2
from ancestral_exporter import data
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds, original_answers
from ancestral_exporter.bundle.manifest import settings_of
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.errors import DataError, ExporterError, UsageError
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.recipes import data_from, from_settings
from ancestral_exporter.served.bundle import Served
from ancestral_exporter.served.judge import FEATURES, Judge, train_judge
from ancestral_exporter.served.latents import Latents, measure_latents
from ancestral_exporter.served.likelihood import Likelihood, measure_likelihood
from ancestral_exporter.served.probes import LABELLED, Probe, probe
from ancestral_exporter.served.samples import (
    Classes,
    Frechet,
    Memory,
    count_classes,
    measure_frechet,
    measure_memory,
)

# Training images that labelled ones are chosen from, and that PCA and the encoders see: so many times the most labels.
_POOL = 10
_UNTRAINED_BATCH = 250
# Another seed than that of the validation and test images, which are drawn once and for all.
_BINARISATION_SEED = data.BINARISATION_SEED + 1
_SAMPLE_SEED = 7

Measured = Literal["test", "validation"]


@dataclass(frozen=True)
class Amounts:
    """images: those that are measured, at most. samples: images drawn. draws: k of a bound, for each image. labelled:
    how many labelled images the classifiers have that encodings are held against each other by; LABELLED, as far as
    there are so many, where None.
    """

    images: int = 1000
    samples: int = 1000
    draws: int = 50
    labelled: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reconstruction:
    """Of so many images: the squared error of encode → decode, intensities in [0,1], summed over the values, a mean."""

    images: int
    squared_error: float


@dataclass(frozen=True)
class Classifier:
    """Of so many images: the share that `classify` gets wrong, and −log p(class) in nats, a mean."""

    images: int
    error: float
    nats: float


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found out; what the bundle's roles or the data do not allow is in `not_applicable`, and None
    or empty. data, binarisation: in words. part: "test", or "validation" where something is still to be chosen.
    """

    bundle: str
    version: int
    family: str
    data: str
    binarisation: str
    part: str
    likelihood: Likelihood | None = None
    latents: Latents | None = None
    reconstruction: Reconstruction | None = None
    classifier: Classifier | None = None
    probes: tuple[Probe, ...] = ()
    classes: Classes | None = None
    frechet: Frechet | None = None
    memory: Memory | None = None
    class_names: tuple[str, ...] = ()
    not_applicable: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON knows it."""
        found = dataclasses.asdict(self)
        if self.latents:
            found["latents"]["active"] = self.latents.active
        return found


@dataclass
class Seen:
    """Images [N,H,W,C] uint8 for pictures, where there are any: neighbours are the training images that are nearest to
    the samples.
    """

    samples: Array | None = None
    neighbours: Array | None = None
    originals: Array | None = None
    decoded: Array | None = None


@dataclass(frozen=True)
class _Parts:
    """The images that figures are of, as the model sees them, and their classes."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array
    labelled: bool


class Evaluating:
    """One evaluation; each method of it adds a figure, or says why there is none. `say` is told what takes seconds.

    part: whose images are measured; those in the field `test` here and in what is found.
    """

    def __init__(
        self, folder: Path, data_path: Path | None, amounts: Amounts, part: Measured, say: Callable[[str], None]
    ) -> None:
        self.served, self.manifest = Served.open(folder)
        self.amounts, self.say = amounts, say
        images = _dataset(folder, self.manifest, self.served.image, data_path)
        self.parts = _parts(folder, self.manifest, images, part, amounts.images)
        self._check_labelled(folder)
        self.seen = Seen()
        self.found: dict[str, Any] = {
            "bundle": self.manifest.name,
            "version": self.manifest.version,
            "family": self.manifest.family,
            "data": images.description,
            "binarisation": images.binarisation,
            "part": part,
            "class_names": tuple(self.manifest.class_names) or images.classes,
        }
        self.missing: dict[str, str] = {}

    def run(self) -> tuple[Evaluation, Seen]:
        self._likelihood()
        self._latents()
        self._reconstruction()
        self._classifier()
        self._probes()
        self._samples()
        return Evaluation(**self.found, not_applicable=self.missing), self.seen

    def _check_labelled(self, folder: Path) -> None:
        """Raises UsageError where somebody asks for counts of labels that there cannot be."""
        counts, classes, images = self.amounts.labelled, len(np.unique(self.parts.train_labels)), len(self.parts.train)
        if counts is None:
            return
        if not self._encoders():
            raise UsageError(f"{folder}: --labels has no effect: neither a role encode nor a role features")
        if not self.parts.labelled:
            raise UsageError("--labels has no effect: the images have no classes")
        for count in counts:
            if not classes <= count <= images:
                raise UsageError(
                    f"--labels {count}: must be {classes}, one of each class, to {images}, the training images"
                )

    def _encoders(self) -> dict[str, Callable[[Array], Array]]:
        """What the bundle makes numbers of images [N,H,W,C] by, [N,D], by name."""
        found: dict[str, Callable[[Array], Array]] = {}
        if self.served.gives("encode", bundle_pb2.MEANING_MEAN):
            found["encode means"] = self.served.means
        if self.served.can("features"):
            found["features"] = self.served.features
        return found

    def _likelihood(self) -> None:
        if not self.served.can("score"):
            self.missing["likelihood"] = "no role score"
            return
        if self.served.takes("score", bundle_pb2.MEANING_LABEL) and not self.parts.labelled:
            self.missing["likelihood"] = "it is of an image given its class, and the images have none"
            return
        self.say(f"scoring {len(self.parts.test)} {self.found['part']} images")
        density = any(metric.name == "negative_log_density" for metric in self.manifest.metrics)
        self.found["likelihood"] = measure_likelihood(
            self.served, self.parts.test, self.parts.test_labels, self.amounts.draws, density=density
        )

    def _latents(self) -> None:
        self.found["latents"] = measure_latents(self.served, self.parts.test)
        if self.found["latents"] is None:
            self.missing["latents"] = "no role encode"

    def _reconstruction(self) -> None:
        lacking = [role for role in ("encode", "decode") if not self.served.can(role)]
        if lacking:
            self.missing["reconstruction"] = f"no role {' and no role '.join(lacking)}"
            return
        images = self.parts.test
        decoded = self.served.decode(self.served.means(images))
        self.seen.originals, self.seen.decoded = images, decoded
        difference = (decoded.astype(np.float64) - images) / 255
        error = float((difference**2).reshape(len(images), -1).sum(axis=1).mean())
        self.found["reconstruction"] = Reconstruction(len(images), error)

    def _classifier(self) -> None:
        if not self.served.can("classify"):
            self.missing["classifier"] = "no role classify"
        elif not self.parts.labelled:
            self.missing["classifier"] = "the images have no classes"
        else:
            logits = self.served.logits(self.parts.test).astype(np.float64)
            labels = self.parts.test_labels
            top = logits.max(axis=1, keepdims=True)
            log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            nats = -log_p[np.arange(len(labels)), labels].mean()
            self.found["classifier"] = Classifier(
                len(labels), float((logits.argmax(axis=1) != labels).mean()), float(nats)
            )

    def _probes(self) -> None:
        parts, encoders, counts = self.parts, self._encoders(), self.amounts.labelled or LABELLED
        if not encoders:
            self.missing["probes"] = "neither a role encode nor a role features"
        elif not parts.labelled:
            self.missing["probes"] = "the images have no classes"
        elif len(parts.train) < min(counts):
            self.missing["probes"] = f"{len(parts.train)} training images, {min(counts)} are needed"
        if "probes" in self.missing:
            return
        self.say("classifying by few labels")
        pool = _POOL * max(counts)
        train, test = parts.train[:pool], parts.test
        found = {name: (encode(train), encode(test)) for name, encode in encoders.items()}
        pixels = [images.reshape(len(images), -1).astype(np.float32) / 255 for images in (train, test)]
        found["raw pixels"] = (pixels[0], pixels[1])
        # Of the size of the latents, where there are any. Like the encoder it may see all training images.
        size = min(self.manifest.latent_size or next(iter(found.values()))[0].shape[1], *pixels[0].shape)
        pca = PCA(size, random_state=0).fit(pixels[0])
        found[f"PCA, {size} components"] = (pca.transform(pixels[0]), pca.transform(pixels[1]))
        try:
            untrained = _untrained(self.manifest, self.served)
        except ExporterError as error:
            self.missing["untrained encoder"] = str(error)
        else:
            found["untrained encoder"] = (untrained(train), untrained(test))
        train_labels = parts.train_labels[:pool]
        self.found["probes"] = tuple(probe(found, train_labels, parts.test_labels, counts))

    def _samples(self) -> None:
        names = ("classes", "frechet", "memory")
        if not self.served.can("sample"):
            self.missing |= dict.fromkeys(names, "no role sample")
            return
        parts = self.parts
        # Of the classes that the test images have, or else of all in turn.
        known = parts.test_labels if parts.labelled else np.arange(max(1, self.served.label_count))
        labels = np.resize(known, self.amounts.samples)
        self.say(f"drawing {len(labels)} samples")
        samples = self.served.sample(labels, _SAMPLE_SEED)
        self.found["memory"], index = measure_memory(samples, parts.train, parts.test)
        self.seen.samples, self.seen.neighbours = samples, parts.train[index]
        if not parts.labelled:
            self.missing |= dict.fromkeys(names[:2], "the images have no classes, so none can be told from another")
            return
        self.say("training a classifier to look at them with")
        judge = train_judge(parts.train, parts.train_labels, self.served.image)
        self._judged(judge, samples, labels)

    def _judged(self, judge: Judge, samples: Array, labels: Array) -> None:
        parts = self.parts
        drawn, test, train = judge.look(samples), judge.look(parts.test), judge.look(parts.train[: len(parts.test)])
        asked = labels if self.served.label_count else None
        self.found["classes"] = count_classes(drawn, test, parts.test_labels, asked)
        self.found["frechet"] = measure_frechet(drawn.features, train.features, test.features)
        if self.found["frechet"] is None:
            fewest = min(map(len, (samples, parts.train, parts.test)))
            self.missing["frechet"] = f"of {fewest} images; {FEATURES + 1} are needed"


def evaluate_bundle(
    folder: Path,
    data_path: Path | None,
    amounts: Amounts,
    say: Callable[[str], None] = lambda _: None,
    part: Measured = "test",
) -> tuple[Evaluation, Served, Seen]:
    """Measure the bundle in a folder on the data of its recipe, or on those of `data_path`: on images of that part.

    Raises UsageError and DataError: no bundle, no data, or data of another shape or of other classes.
    """
    evaluating = Evaluating(folder, data_path, amounts, part, say)
    found, seen = evaluating.run()
    return found, evaluating.served, seen


def _dataset(folder: Path, manifest: bundle_pb2.Bundle, image: ImageShape, path: Path | None) -> data.Dataset:
    """The images of the bundle's recipe; of `path` where it has no recipe, or one whose data are included."""
    settings = settings_of(manifest)
    chosen = data.DataSettings("images", levels=image.levels)
    if settings:
        trained_on = data_from(settings)
        if path is None or data.SOURCES[trained_on.source].needs_path:
            chosen = dataclasses.replace(trained_on, labelled=None)
    elif path is None:
        raise UsageError(f"{folder}: the bundle does not say what it was trained on; pass --data")
    if chosen.source == "images":
        if image.channels not in (1, 3):
            raise UsageError(f"{folder}: is of images with {image.channels} channels, and pictures have 1 or 3")
        colour: Any = "grey" if image.channels == 1 else "rgb"
        chosen = dataclasses.replace(chosen, size=(image.height, image.width), colour=colour)
    found = data.load(chosen, path)
    if found.image != image:
        raise DataError(f"{folder}: is of images {_shape(image)}, and the data are {_shape(found.image)}")
    return found


def _shape(image: ImageShape) -> str:
    return f"{image.height}×{image.width}×{image.channels} of {image.levels} levels"


def _parts(folder: Path, manifest: bundle_pb2.Bundle, images: data.Dataset, part: Measured, most: int) -> _Parts:
    measured = images.test if part == "test" else images.validation
    train = images.train.images
    if images.train.binarise:
        train = data.binarise(train, np.random.default_rng(_BINARISATION_SEED))
    train_labels, test_labels = images.train.labels, measured.labels[:most]
    labelled = len(np.unique(train_labels)) > 1
    known = [manifest.label_count] if manifest.label_count else []
    known += [spec.shape[0] for role in manifest.roles for spec in role.outputs
              if spec.meaning == bundle_pb2.MEANING_LOGITS]  # fmt: skip
    if known and labelled:
        if images.classes and manifest.class_names and list(images.classes) != list(manifest.class_names):
            raise DataError(
                f"{folder}: knows the classes {_listed(manifest.class_names)}, and the data have "
                f"{_listed(images.classes)}"
            )
        if (most_label := int(max(train_labels.max(), test_labels.max()))) >= known[0]:
            raise DataError(f"{folder}: knows {known[0]} classes, and the data have {most_label + 1}")
    return _Parts(train, train_labels, measured.images[:most], test_labels, labelled)


def _listed(names: Any) -> str:
    return ", ".join(list(names)[:10]) + (" and more" if len(names) > 10 else "")


def _untrained(manifest: bundle_pb2.Bundle, served: Served) -> Callable[[Array], Array]:
    """The encoder of the bundle's recipe with fresh weights: its features, or its codes where it has no features.

    Raises ExporterError where there is no recipe, or one that cannot be built here.
    """
    settings = settings_of(manifest)
    if not settings:
        raise UsageError("the bundle has no recipe to build one by")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = from_settings(settings).build(served.image).eval()
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()  # a family may begin with weights that somebody trained
    name, meanings = (
        ("features", (bundle_pb2.MEANING_FEATURES, bundle_pb2.MEANING_FEATURE_MAP))
        if served.can("features")
        else ("encode", (bundle_pb2.MEANING_MEAN,))
    )
    graph, role = next((g, role) for g in model.graphs() for role in graph_roles(g) if role.name == name)
    output = next(spec.name for spec in role.outputs if spec.meaning in meanings)

    def encode(images: Array) -> Array:
        return np.concatenate([answers.reshape(len(answers), -1) for answers in batches(images)])

    def batches(images: Array) -> Iterator[Array]:
        for part in np.array_split(images, math.ceil(len(images) / _UNTRAINED_BATCH)):
            labels = np.zeros(len(part), np.int64)
            yield original_answers(graph, role, make_feeds(role, Subjects(part, labels, 0)))[output]

    return encode
