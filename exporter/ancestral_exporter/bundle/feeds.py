"""Inputs to try a role with, and the answers that its original gives to them: PyTorch, or somebody else's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array, Arrays
from ancestral_exporter.bundle.tracing import input_names, output_names
from ancestral_exporter.models.base import ClassifyGraph, ForeignGraph, Graph, RasterGraph


@dataclass(frozen=True)
class Subjects:
    """Images [N,H,W,C] uint8, their labels [N] int64 (None where there are none), and a seed for all other inputs."""

    images: Array
    labels: Array | None
    seed: int

    def first(self, count: int) -> Subjects:
        """As many of the images, going round when there are fewer."""
        index = np.arange(count) % len(self.images)
        return Subjects(self.images[index], None if self.labels is None else self.labels[index], self.seed)


def make_feeds(role: bundle_pb2.Role, subjects: Subjects) -> Arrays:
    """An input of every kind that the role has; those of a raster role are whole images."""
    count, height = subjects.images.shape[:2]
    raster = role.program == bundle_pb2.PROGRAM_RASTER
    random = np.random.default_rng(subjects.seed)
    feeds: Arrays = {}
    for spec in role.inputs:
        shape = (height, *spec.shape) if raster else tuple(spec.shape)
        if spec.meaning in (bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_GIVEN):
            value = subjects.images
        elif spec.meaning == bundle_pb2.MEANING_KNOWN:
            value = _masks(count, shape, random)
        elif spec.meaning == bundle_pb2.MEANING_UNIFORMS:
            value = uniforms_of_range(subjects.seed, 0, count, shape)
        elif spec.meaning == bundle_pb2.MEANING_TEMPERATURE:
            value = np.resize(np.array([1, 0.7, 1, 0], np.float32), count)
        elif spec.meaning == bundle_pb2.MEANING_LABEL:
            value = np.zeros(count, np.int64) if subjects.labels is None else subjects.labels.astype(np.int64)
        elif spec.meaning == bundle_pb2.MEANING_LATENT:
            value = random.standard_normal((count, *shape), dtype=np.float32)
        else:
            meaning = bundle_pb2.Meaning.Name(spec.meaning)
            raise ValueError(f"role {role.name}: input {spec.name!r} has the meaning {meaning}, which is no input")
        feeds[spec.name] = value
    return feeds


def _masks(count: int, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Which pixels are known [N,H,W,C]: in turn none, the upper half, a random third."""
    masks = np.zeros((count, *shape), np.bool_)
    masks[1::3, : shape[0] // 2] = True
    masks[2::3] = random.random(masks[2::3].shape) < 1 / 3
    return masks


def original_answers(graph: Graph, role: bundle_pb2.Role, feeds: Mapping[str, Array]) -> Arrays:
    """The role's outputs by name, from what the graph was made of: PyTorch, or somebody else's file."""
    if isinstance(graph, ForeignGraph):
        return graph.answers(feeds)
    if isinstance(graph, RasterGraph):
        return _raster_answers(graph, feeds)
    if isinstance(graph, ClassifyGraph):
        return _bayes_answers(graph, role, feeds)
    with torch.no_grad():
        results: tuple[Tensor, ...] = graph.module(*(torch.from_numpy(feeds[name]) for name in input_names(graph)))
    answers = dict(zip(output_names(graph), (value.numpy() for value in results), strict=True))
    return {spec.name: answers[spec.name] for spec in role.outputs}


def _bayes_answers(graph: ClassifyGraph, role: bundle_pb2.Role, feeds: Mapping[str, Array]) -> Arrays:
    score = graph.score.roles[0]
    names = {spec.meaning: spec.name for spec in (*score.inputs, *score.outputs)}
    images = feeds[role.inputs[0].name]
    scores = []
    for label in range(graph.labels):
        given = {
            names[bundle_pb2.MEANING_IMAGE]: images,
            names[bundle_pb2.MEANING_LABEL]: np.full(len(images), label, np.int64),
        }
        scores.append(original_answers(graph.score, score, given)[names[bundle_pb2.MEANING_LOG_LIKELIHOOD]])
    return {role.outputs[0].name: np.stack(scores, axis=1) - np.float32(math.log(graph.labels))}


def _raster_answers(graph: RasterGraph, feeds: Mapping[str, Array]) -> Arrays:
    def fed(meaning: bundle_pb2.Meaning.ValueType) -> Tensor | None:
        names = [spec.name for spec in graph.role.inputs if spec.meaning == meaning]
        return torch.from_numpy(feeds[names[0]]) if names else None

    given, known = fed(bundle_pb2.MEANING_GIVEN), fed(bundle_pb2.MEANING_KNOWN)
    uniforms, temperature = fed(bundle_pb2.MEANING_UNIFORMS), fed(bundle_pb2.MEANING_TEMPERATURE)
    assert given is not None
    assert known is not None
    assert uniforms is not None
    assert temperature is not None
    images, scores = graph.reference(given, known, uniforms, temperature, fed(bundle_pb2.MEANING_LABEL))
    answers: dict[int, Array] = {
        bundle_pb2.MEANING_ROW: images.numpy(),
        bundle_pb2.MEANING_LOG_LIKELIHOOD: scores.numpy(),
    }
    return {spec.name: answers[spec.meaning] for spec in graph.role.outputs}
