"""The row graph of an autoregressive model, ready to run, and inputs for it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from ancestral_exporter.bundle.feeds import Subjects, make_feeds
from ancestral_exporter.bundle.runtime import Arrays
from ancestral_exporter.models.autoregressive import Autoregressive
from ancestral_exporter.models.base import ImageShape, RasterGraph
from ancestral_exporter.models.quantise import from_levels


def raster(model: Autoregressive) -> tuple[RasterGraph, Any]:
    graph = next(g for g in model.graphs() if isinstance(g, RasterGraph))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), options, ["CPUExecutionProvider"])
    return graph, session


def random_levels(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (count, shape.height, shape.width, shape.channels)
    return torch.randint(0, shape.levels, size, generator=generator)


def feeds_of(graph: RasterGraph, shape: ImageShape, count: int, labels: int = 0, seed: int = 5) -> Arrays:
    """Some images free, some known in part, at several temperatures."""
    images = from_levels(random_levels(shape, count, seed), shape.levels).numpy()
    return make_feeds(graph.role, Subjects(images, np.arange(count) % labels if labels else None, seed))


def torch_feeds(feeds: Arrays) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    given, known, uniforms, temperature = (
        torch.from_numpy(feeds[name]) for name in ("given", "known", "uniforms", "temperature")
    )
    return given, known, uniforms, temperature, torch.from_numpy(feeds["label"]) if "label" in feeds else None


def dependences(model: Autoregressive, features_per_pixel: int) -> np.ndarray[Any, Any]:
    """[H·W·C,H·W·C] bool: which values' features the logits of each value depend on, by their derivatives."""
    shape = model.image
    labels = torch.zeros(1, dtype=torch.int64) if model.label_count else None
    features = torch.randn(1, features_per_pixel, shape.height, shape.width, requires_grad=True)
    with patch.object(model, "pixel_inputs", lambda levels: features):
        logits = model.level_logits(torch.zeros(1, *shape.hwc, dtype=torch.int64), labels)[0]  # [H,W,C,K]
    weights = torch.randn(logits.shape[-1])
    seen = np.zeros((shape.values, shape.values), np.bool_)
    for i, at in enumerate(np.ndindex(*shape.hwc)):
        (gradient,) = torch.autograd.grad(logits[at] @ weights, features, retain_graph=True)
        # [F,H,W] -> a pixel's channel is seen when any of its features is.
        by_channel = gradient[0].reshape(shape.channels, -1, shape.height, shape.width).abs().sum(1)
        seen[i] = (by_channel.permute(1, 2, 0).flatten() != 0).numpy()
    return seen
