"""The pictures of a bundle: a grid of samples, drawn by the exported graph itself, and the training curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.runtime import Array
from ancestral_exporter.models.base import ImageModel
from ancestral_exporter.sampling import draw_samples, sample_role

SAMPLES, CURVE, METRICS = "samples.png", "training.png", "metrics.csv"
# Pixels of a grid's longer side, about: large enough to see 8×8 digits.
_GRID_PIXELS = 640
# Of labelled rows, in pixels: the letters, and the white around them. And the grey where a row has no image more.
_LETTERS, _PADDING = 16, 10
_EMPTY = 96


def write_samples(model: ImageModel, folder: Path, seed: int = 0) -> None:
    """Draw images with the exported graph of role "sample", if there is one, into samples.png: 8×8 of them.

    A model with labels has a column for each class, since labels go round.
    """
    role = sample_role(model)
    if role is None:
        return
    columns = model.label_count or 8
    images = draw_samples(model, role, folder, 8 * columns, seed, temperature_of(role))
    Image.fromarray(grid(images, columns)).save(folder / SAMPLES, optimize=True)


def temperature_of(role: bundle_pb2.Role) -> int:
    """The temperature of the pictures: 1, but 0 where pixels are independent given a latent.

    There each pixel's own noise hides what z is about; the field shows p(x|z) without it (arXiv 1312.6114, figure 5).
    """
    return int(role.program == bundle_pb2.PROGRAM_RASTER)


def grid(images: Array, columns: int) -> Array:
    """Images [N,H,W,C] uint8 row by row with thin lines between, enlarged: [H',W'] or [H',W',3] uint8."""
    count, height, width, channels = images.shape
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


def labelled_rows(groups: Sequence[Sequence[tuple[str, Array]]]) -> Image.Image:
    """Rows of images [N,H,W,C] uint8, each with its label at the left; the rows of a group lie close together."""
    # All enlarged alike: a last row may have fewer images.
    most = max(len(images) for rows in groups for _, images in rows)
    font = ImageFont.load_default(_LETTERS)
    margin = int(max(font.getlength(label) for rows in groups for label, _ in rows)) + 2 * _PADDING
    placed: list[tuple[str, Array, int]] = []
    top = 0
    for rows in groups:
        for label, images in rows:
            blank = np.full((most - len(images), *images.shape[1:]), _EMPTY, np.uint8)
            sheet = grid(np.concatenate([images, blank]), most)
            placed.append((label, sheet, top))
            top += len(sheet)
        top += 2 * _PADDING
    picture = Image.new("RGB", (margin + placed[0][1].shape[1], top - 2 * _PADDING), "white")
    draw = ImageDraw.Draw(picture)
    for label, sheet, above in placed:
        picture.paste(Image.fromarray(sheet), (margin, above))
        draw.text((margin - _PADDING, above + len(sheet) // 2), label, fill="black", font=font, anchor="rm")
    return picture


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


def write_curve(
    history: Sequence[dict[str, float]], title: str, best_epoch: int, name: str, unit: str, folder: Path
) -> None:
    """The figure `name` of training, where it has one, and of validation by epoch as training.png."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for part in ("train", "validation"):
        if not any(f"{part}_{name}" in row for row in history):
            continue
        values = [row.get(f"{part}_{name}", float("nan")) for row in history]
        axes.plot(epochs, values, label={"train": "training", "validation": "validation (averaged weights)"}[part])
    axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle=":", label=f"exported: epoch {best_epoch}")
    # The first epochs are far off and would flatten the rest.
    shown = [row[f"validation_{name}"] for row in history]
    low = min(min(shown), min(row.get(f"train_{name}", min(shown)) for row in history))
    high = float(np.quantile(shown, 0.75))
    axes.set_ylim(low - 0.05 * abs(low), max(high, min(shown)) + 0.35 * abs(low))
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / CURVE)
