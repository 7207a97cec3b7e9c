"""The picture of reconstructions, each image with what came back of it below; and the README's pictures, kept fresh.

`python -m ancestral_demo.pictures FROM TO` compares the pictures in TO with those in FROM and takes them over.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ancestral_client.files import grid

COLUMNS = 8
LABELS = ("original", "decoded")
# All in pixels: of the letters, of the margin that the labels take, and between two pairs of rows.
_LETTERS = 18
_MARGIN = 90
_BETWEEN = 24


def side_by_side(originals: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Image.Image:
    """Images [N,H,W,C] in rows of `COLUMNS`, below each row the same images [N,H,W,C] decoded; both rows labelled."""
    pairs = [
        [grid(images[first : first + COLUMNS], COLUMNS) for images in (originals, decoded)]
        for first in range(0, len(originals), COLUMNS)
    ]
    height, width = pairs[0][0].shape[:2]
    size = (_MARGIN + width, len(pairs) * (2 * height + _BETWEEN) - _BETWEEN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_LETTERS)
    for i, rows in enumerate(pairs):
        for j, (label, row) in enumerate(zip(LABELS, rows, strict=True)):
            top = i * (2 * height + _BETWEEN) + j * height
            picture.paste(Image.fromarray(row), (_MARGIN, top))
            middle = (_MARGIN - 6, top + height // 2)
            draw.text(middle, label, fill="black", font=font, anchor="rm")
    return picture


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
