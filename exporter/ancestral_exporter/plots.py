"""The pictures of a bundle: a grid of samples, drawn by the exported graph itself, and the training curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.feeds import philox_uniforms
from ancestral_exporter.bundle.runtime import Array, Arrays, open_session, run_role
from ancestral_exporter.models.base import ImageModel

SAMPLES, CURVE, METRICS = "samples.png", "training.png", "metrics.csv"
# Pixels of a grid's longer side, about: large enough to see 8×8 digits.
_GRID_PIXELS = 640


def write_samples(model: ImageModel, folder: Path, count: int = 64, seed: int = 0) -> None:
    """Draw `count` images with the exported graph of role "sample", if there is one, into samples.png."""
    roles = [role for graph in model.graphs() for role in graph_roles(graph) if role.name == "sample"]
    if not roles:
        return
    images = draw_samples(model, roles[0], folder, count, seed)
    Image.fromarray(grid(images)).save(folder / SAMPLES, optimize=True)


def temperature_of(role: bundle_pb2.Role) -> int:
    """The temperature of the pictures: 1, but 0 where pixels are independent given a latent.

    There each pixel's own noise hides what z is about; the field shows p(x|z) without it (arXiv 1312.6114, figure 5).
    """
    return int(role.program == bundle_pb2.PROGRAM_RASTER)


def draw_samples(model: ImageModel, role: bundle_pb2.Role, folder: Path, count: int, seed: int) -> Array:
    """Images [N,H,W,C] uint8 at `temperature_of(role)`, sample i from Philox stream (seed, i); labels go round."""
    shape = model.image
    raster = role.program == bundle_pb2.PROGRAM_RASTER
    feeds: Arrays = {}
    for spec in role.inputs:
        dimensions = (shape.height, *spec.shape) if raster else tuple(spec.shape)
        if spec.meaning == bundle_pb2.MEANING_UNIFORMS:
            feeds[spec.name] = philox_uniforms(seed, count, dimensions)
        elif spec.meaning == bundle_pb2.MEANING_TEMPERATURE:
            feeds[spec.name] = np.full(count, temperature_of(role), np.float32)
        elif spec.meaning == bundle_pb2.MEANING_LABEL:
            feeds[spec.name] = np.arange(count, dtype=np.int64) % model.label_count
        elif spec.meaning == bundle_pb2.MEANING_KNOWN:
            feeds[spec.name] = np.zeros((count, *dimensions), np.bool_)
        else:
            feeds[spec.name] = np.zeros((count, *dimensions), np.uint8)
    outputs = run_role(open_session(folder / role.graph), role, feeds, shape.height)
    wanted = (bundle_pb2.MEANING_ROW, bundle_pb2.MEANING_IMAGE)
    return outputs[next(spec.name for spec in role.outputs if spec.meaning in wanted)]


def grid(images: Array) -> Array:
    """Images [N,H,W,C] uint8 in a near-square grid with thin lines between, enlarged: [H',W'] or [H',W',3] uint8."""
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    scale = max(1, _GRID_PIXELS // (columns * width))
    gap = max(1, scale // 4)
    big = images.repeat(scale, axis=1).repeat(scale, axis=2)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    sheet = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 96, np.uint8)
    for i, image in enumerate(big):
        top, left = i // columns * cell_height + gap, i % columns * cell_width + gap
        sheet[top : top + height * scale, left : left + width * scale] = image
    return sheet[..., 0] if channels == 1 else sheet[..., :3]


def write_metrics(history: Sequence[dict[str, float]], folder: Path) -> None:
    """The rows of a training as metrics.csv: one column per figure, nats per image unless it says bits_per_dim."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with (folder / METRICS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in history:
            values = (row.get(name, "") for name in columns)
            writer.writerow([int(value) if name in ("epoch", "step") else value
                             for name, value in zip(columns, values, strict=True)])  # fmt: skip


def write_curve(history: Sequence[dict[str, float]], title: str, best_epoch: int, unit: str, folder: Path) -> None:
    """Training and validation figures by epoch as training.png; `unit` names their axis."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for part in ("train", "validation"):
        values = [row.get(f"{part}_bits_per_dim", float("nan")) for row in history]
        axes.plot(epochs, values, label={"train": "training", "validation": "validation (averaged weights)"}[part])
    axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle=":", label=f"exported: epoch {best_epoch}")
    # The first epochs are far off and would flatten the rest.
    shown = [row["validation_bits_per_dim"] for row in history]
    low = min(min(shown), min(row.get("train_bits_per_dim", min(shown)) for row in history))
    high = float(np.quantile(shown, 0.75))
    axes.set_ylim(low - 0.05 * abs(low), max(high, min(shown)) + 0.35 * abs(low))
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / CURVE)
