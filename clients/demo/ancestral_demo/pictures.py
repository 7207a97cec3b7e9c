"""Pictures that are read at a glance: rows of images with a label at the left; and the README's pictures, kept fresh.

`python -m ancestral_demo.pictures FROM TO` compares the pictures in TO with those in FROM and takes them over.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ancestral_client.pictures import grid

COLUMNS = 8
# In pixels: the letters, the white around a label, and between two groups of rows.
_LETTERS = 18
_PADDING = 6
_BETWEEN = 24

# Labels and the images [N,H,W,C] beside them, as many in each row.
Rows = Sequence[tuple[str, NDArray[np.uint8]]]


def labelled_rows(groups: Sequence[Rows], ends: tuple[str, str] | None = None) -> Image.Image:
    """Rows of as many images [N,H,W,C] each, its label at its left; the rows of a group lie together.

    ends: what stands below the first and the last column.
    """
    font = ImageFont.load_default(_LETTERS)
    sheets = [[(label, grid(images, len(images))) for label, images in rows] for rows in groups]
    margin = int(max(font.getlength(label) for rows in sheets for label, _ in rows)) + 2 * _PADDING
    height, width = sheets[0][0][1].shape[:2]
    below = _LETTERS + _PADDING if ends else 0
    total = sum(map(len, sheets)) * height + (len(sheets) - 1) * _BETWEEN + below
    picture = Image.new("RGB", (margin + width, total), "white")
    draw = ImageDraw.Draw(picture)
    top = 0
    for rows in sheets:
        for label, sheet in rows:
            picture.paste(Image.fromarray(sheet), (margin, top))
            draw.text((margin - _PADDING, top + height // 2), label, fill="black", font=font, anchor="rm")
            top += height
        top += _BETWEEN
    for text, left, anchor in ((ends[0], margin, "ld"), (ends[1], margin + width, "rd")) if ends else ():
        draw.text((left, total - 1), text, fill="black", font=font, anchor=anchor)
    return picture


def in_groups(rows: Rows) -> list[Rows]:
    """Rows of many images each as groups of rows of `COLUMNS`."""
    count = len(rows[0][1])
    return [[(label, images[first : first + COLUMNS]) for label, images in rows] for first in range(0, count, COLUMNS)]


def manifold_points(steps: int) -> NDArray[np.float32]:
    """[steps², 2]: quantiles of the prior N(0, I) on a grid, row by row (Kingma & Welling 2014, figure 4)."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)]
    return np.array([[x, y] for y in quantiles for x in quantiles], np.float32)


def take_over(source: Path, target: Path) -> dict[str, bool]:
    """Replace each picture in `target` whose namesake in `source` has other pixels; True for those, by name."""
    changed = {}
    for picture in sorted(target.glob("*.png")):
        with Image.open(picture) as old, Image.open(source / picture.name) as new:
            same = (old.size, old.mode) == (new.size, new.mode) and old.tobytes() == new.tobytes()
        if not same:
            shutil.copyfile(source / picture.name, picture)
        changed[picture.name] = not same
    return changed


if __name__ == "__main__":
    for name, differs in take_over(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(f"{name}: {'differs, taken over' if differs else 'as it was'}")
