"""Pictures of the visitor's own, as images of a model's size. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ancestral_client import files
from ancestral_client.fitting import Fit
from ancestral_studio.pixels import Shape

MOST_BYTES = 20 << 20
"""Of a file that a visitor brings: more than the photographs of phones have."""


def image_of(name: str, content: bytes, shape: Shape) -> tuple[NDArray[np.uint8], str]:
    """[H,W,C] of a picture's file, and what was done to make it so, in a line; FileProblem where it is no picture.

    What has another size is cut to the middle and scaled, colours become grey for a grey model.
    """
    height, width, _ = shape
    levels = files.decoded(name, content)
    rows, columns = levels.shape[:2]
    image, grey = Fit("the model", shape, "crop").picture(levels)
    done = ["its colours are grey now"] if grey else []
    if (rows, columns) != (height, width):
        cut = "its middle, " if rows * width != columns * height else ""
        done.append(f"{columns}×{rows} pixels, {cut}scaled to {width}×{height}")
    return image, f"{name}: {'; '.join(done) or 'taken as it is'}"
