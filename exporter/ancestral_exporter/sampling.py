"""What the exported graph of role "sample" draws, and whether its samples are of the class that was asked for.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.runtime import Array, Arrays, open_session, run_role
from ancestral_exporter.data import Dataset, Labels
from ancestral_exporter.models.base import ImageModel

# Samples of each class that are classified: enough for a standard error of two percent.
_PER_CLASS = 30


def sample_role(model: ImageModel) -> bundle_pb2.Role | None:
    """The role "sample" of a model that has one."""
    return next((role for graph in model.graphs() for role in graph_roles(graph) if role.name == "sample"), None)


def round_labels(model: ImageModel, count: int) -> Labels:
    """Labels [N] of `count` samples: the classes go round; zeros for a model without classes."""
    return np.arange(count, dtype=np.int64) % max(1, model.label_count)


def sample_feeds(model: ImageModel, role: bundle_pb2.Role, count: int, seed: int, temperature: float) -> Arrays:
    """Inputs for `count` free samples, sample i from stream (seed, i), labels as `round_labels` has them."""
    shape = model.image
    raster = role.program == bundle_pb2.PROGRAM_RASTER
    feeds: Arrays = {}
    for spec in role.inputs:
        dimensions = (shape.height, *spec.shape) if raster else tuple(spec.shape)
        if spec.meaning == bundle_pb2.MEANING_UNIFORMS:
            feeds[spec.name] = uniforms_of_range(seed, 0, count, dimensions)
        elif spec.meaning == bundle_pb2.MEANING_TEMPERATURE:
            feeds[spec.name] = np.full(count, temperature, np.float32)
        elif spec.meaning == bundle_pb2.MEANING_LABEL:
            feeds[spec.name] = round_labels(model, count)
        elif spec.meaning == bundle_pb2.MEANING_KNOWN:
            feeds[spec.name] = np.zeros((count, *dimensions), np.bool_)
        else:
            feeds[spec.name] = np.zeros((count, *dimensions), np.uint8)
    return feeds


def draw_samples(
    model: ImageModel, role: bundle_pb2.Role, folder: Path, count: int, seed: int, temperature: float
) -> Array:
    """Images [N,H,W,C] uint8 by the exported graph in `folder`; see `sample_feeds`."""
    feeds = sample_feeds(model, role, count, seed, temperature)
    outputs = run_role(open_session(folder / role.graph), role, feeds, model.image.height)
    wanted = (bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_IMAGE)
    return outputs[next(spec.name for spec in role.outputs if spec.meaning in wanted)]


@dataclass(frozen=True)
class Agreement:
    """How often a classifier of real images takes a sample for the class that it was asked to be.

    samples: images drawn at temperature 1, as many of each class. share: of them, those that the classifier and the
    label call the same. accuracy: the classifier's share on the real test images, which a perfect model would reach.
    among: the part of the data that its neighbours are of, in a word.
    """

    samples: int
    share: float
    accuracy: float
    among: str

    def metric(self) -> bundle_pb2.Metric:
        return bundle_pb2.Metric(name="label_agreement", value=self.share, unit="share of samples")


def label_agreement(model: ImageModel, folder: Path, data: Dataset, seed: int = 1) -> Agreement | None:
    """Classify samples of the exported graph in `folder`; None for a model without labels or samples.

    The classifier is five nearest neighbours among the training images: nothing to tune, and good at small digits.
    Where the training has not all of their labels, it takes the validation images, which do.
    """
    from sklearn.neighbors import KNeighborsClassifier  # slow to import

    role = sample_role(model)
    if role is None or not model.label_count:
        return None
    count = _PER_CLASS * model.label_count
    images = draw_samples(model, role, folder, count, seed, temperature=1)
    known = data.train if (data.train.labels >= 0).all() else data.validation
    classifier = KNeighborsClassifier(5).fit(_flat(known.images), known.labels)
    share = classifier.score(_flat(images), round_labels(model, count))
    accuracy = classifier.score(_flat(data.test.images), data.test.labels)
    return Agreement(count, float(share), float(accuracy), "training" if known is data.train else "validation")


def _flat(images: Array) -> Array:
    """[N,H·W·C] float32 in [0,1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255
