"""The graphs of a bundle, asked by role and by meaning, many images at a time.

Letters: N images, H, W, C image axes, Z latent dimensions, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.bundle import noise, rules
from ancestral.text import one_line
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.runtime import RUN_FAILURES, Array, open_session, run_role
from ancestral_exporter.bundle.verify import MOST_PROBLEMS
from ancestral_exporter.errors import ExporterError
from ancestral_exporter.models.base import ImageShape

# Scores that are asked for at once, each with a copy of its image and with noise.
_SCORES = 20_000
# Images of one run, and their values: a net for large images holds hundreds of times as many floats while it runs.
_BATCH, _MOST_VALUES = 250, 2**20

_IMAGES = (bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_ROW)
# Of a family with a bound, a draw's log-weight; of another, the exact likelihood.
_SCORED = (bundle_pb2.MEANING_LOG_WEIGHT, bundle_pb2.MEANING_LOG_LIKELIHOOD)

_Given = Mapping[bundle_pb2.Meaning.ValueType, Array]


class Served:
    """Roles of a bundle. label_count: classes that a role is conditioned on, 0 for none."""

    def __init__(self, folder: Path, roles: Iterable[bundle_pb2.Role], image: ImageShape, label_count: int) -> None:
        self.folder, self.image, self.label_count = folder, image, label_count
        self.roles = {role.name: role for role in roles}
        self._sessions: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path) -> tuple[Served, bundle_pb2.Bundle]:
        """The bundle in a folder, and its manifest. Raises UsageError and ExporterError where it is none."""
        manifest = read_manifest(folder)
        found = list(rules.problems(manifest))
        if found:
            raise ExporterError(f"{folder}: {'; '.join(found[:MOST_PROBLEMS])}; `ancestral-exporter verify` tells all")
        image = manifest.image
        shape = ImageShape(image.height, image.width, image.channels, image.levels)
        return cls(folder, manifest.roles, shape, manifest.label_count), manifest

    def can(self, name: str) -> bool:
        return name in self.roles

    def gives(self, name: str, meaning: bundle_pb2.Meaning.ValueType) -> bool:
        """Whether the role is there and has such an output."""
        return self.can(name) and any(spec.meaning == meaning for spec in self.roles[name].outputs)

    def takes(self, name: str, meaning: bundle_pb2.Meaning.ValueType) -> bool:
        """Whether the role is there and has such an input."""
        return self.can(name) and any(spec.meaning == meaning for spec in self.roles[name].inputs)

    def means(self, images: Array) -> Array:
        """[N,Z] of images [N,H,W,C] uint8."""
        return self.moments(images)[bundle_pb2.MEANING_MEAN]

    def moments(self, images: Array) -> dict[int, Array]:
        """What `encode` gives without a draw: mean, and log-variance where it has one, [N,Z]."""
        return self._run(self.roles["encode"], len(images), {bundle_pb2.MEANING_IMAGE: images})

    def features(self, images: Array) -> Array:
        """[N,F] of images [N,H,W,C] uint8; a map of features is laid flat."""
        outputs = self._run(self.roles["features"], len(images), {bundle_pb2.MEANING_IMAGE: images})
        found = next(outputs[m] for m in (bundle_pb2.MEANING_FEATURES, bundle_pb2.MEANING_FEATURE_MAP) if m in outputs)
        return found.reshape(len(images), -1)

    def logits(self, images: Array) -> Array:
        """[N,K] of images [N,H,W,C] uint8."""
        given = {bundle_pb2.MEANING_IMAGE: images}
        return self._run(self.roles["classify"], len(images), given)[bundle_pb2.MEANING_LOGITS]

    def decode(self, latents: Array) -> Array:
        """Images [N,H,W,C] uint8 of latents [N,Z]."""
        given = {bundle_pb2.MEANING_LATENT: latents.astype(np.float32)}
        return self._run(self.roles["decode"], len(latents), given)[bundle_pb2.MEANING_IMAGE]

    def scores(self, images: Array, labels: Array, draws: int, seed: int = 0) -> Array:
        """Log-likelihoods [N, draws], nats, of images [N,H,W,C] uint8 of classes [N], each with noise of its own."""
        at_once = max(1, _SCORES // draws)
        found = []
        for i, first in enumerate(range(0, len(images), at_once)):
            part = slice(first, first + at_once)
            given = {
                bundle_pb2.MEANING_IMAGE: images[part].repeat(draws, axis=0),
                bundle_pb2.MEANING_LABEL: labels[part].repeat(draws),
            }
            outputs = self._run(self.roles["score"], len(images[part]) * draws, given, seed + i)
            scores = next(outputs[meaning] for meaning in _SCORED if meaning in outputs)
            found.append(scores.reshape(-1, draws))
        return np.concatenate(found)

    def sample(self, labels: Array, seed: int = 0, temperature: float = 1) -> Array:
        """Images [N,H,W,C] uint8, one of each class in labels [N] where the model has classes.

        Sample i is made with the noise of Philox stream (seed, i).
        """
        count = len(labels)
        given = {
            bundle_pb2.MEANING_LABEL: labels,
            bundle_pb2.MEANING_TEMPERATURE: np.full(count, temperature, np.float32),
        }
        outputs = self._run(self.roles["sample"], count, given, seed)
        return next(outputs[meaning] for meaning in _IMAGES if meaning in outputs)

    def _run(self, role: bundle_pb2.Role, count: int, given: _Given, seed: int = 0) -> dict[int, Array]:
        """A role's outputs by meaning. Noise is drawn here; an image to complete is unknown in every pixel."""
        session = self._session(role.graph)
        raster = role.program == bundle_pb2.PROGRAM_RASTER
        given = dict(given)
        for spec in role.inputs:
            shape = (count, *((self.image.height,) if raster else ()), *spec.shape)
            if spec.meaning == bundle_pb2.MEANING_UNIFORMS:
                given[spec.meaning] = noise.uniforms_of_range(seed, 0, count, shape[1:])
            elif spec.meaning not in given:
                given[spec.meaning] = np.zeros(
                    shape, np.bool_ if spec.meaning == bundle_pb2.MEANING_KNOWN else np.uint8
                )
        size = max(1, min(_BATCH, _MOST_VALUES // self.image.values))
        parts: list[dict[int, Array]] = []
        for first in range(0, count, size):
            batch = slice(first, first + size)
            feeds = {spec.name: given[spec.meaning][batch] for spec in role.inputs}
            try:
                outputs = run_role(session, role, feeds, self.image.height)
            except RUN_FAILURES as error:
                told = one_line(error)
                raise ExporterError(f"{self.folder / role.graph}: role {role.name} fails: {told}") from error
            parts.append({spec.meaning: outputs[spec.name] for spec in role.outputs})
        return {meaning: np.concatenate([part[meaning] for part in parts]) for meaning in parts[0]}

    def _session(self, graph: str) -> Any:
        if graph not in self._sessions:
            try:
                self._sessions[graph] = open_session(self.folder / graph)
            except Exception as error:  # onnxruntime raises many kinds
                told = one_line(error)
                raise ExporterError(f"{self.folder / graph}: does not load: {told}") from error
        return self._sessions[graph]
