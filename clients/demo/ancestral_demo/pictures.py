"""The picture of reconstructions: each image with what came back of it below."""

from __future__ import annotations

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
