"""Pictures that visitors bring."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ancestral_client.replacing import FileProblem
from ancestral_studio.own import image_of
from ancestral_studio.pixels import Shape

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY, 255 - GREY], axis=-1)


def png(array: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("array", "shape", "told"),
    [
        (GREY, (8, 8, 1), "mine.png: taken as it is"),
        (COLOUR, (8, 8, 3), "mine.png: taken as it is"),
        (GREY, (8, 8, 3), "mine.png: taken as it is"),
        (COLOUR, (8, 8, 1), "mine.png: its colours are grey now"),
        (GREY, (4, 4, 1), "mine.png: 8×8 pixels, scaled to 4×4"),
        (COLOUR[:6], (4, 4, 1), "mine.png: its colours are grey now; 8×6 pixels, its middle, scaled to 4×4"),
        (GREY[:1, :1], (5, 6, 3), "mine.png: 1×1 pixels, its middle, scaled to 6×5"),
        (np.full((8, 8, 4), 100, np.uint8), (8, 8, 1), "mine.png: taken as it is"),
    ],
)
def test_a_picture_becomes_an_image_of_the_models_size(array: NDArray[np.uint8], shape: Shape, told: str) -> None:
    image, done = image_of("mine.png", png(array), shape)
    assert (image.shape, image.dtype.name, done) == (shape, "uint8", told)
    if array.shape[:2] == shape[:2] and (array is GREY or shape[2] == 3):
        np.testing.assert_array_equal(image, np.broadcast_to(array.reshape(8, 8, -1), shape))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "mine.png: not a picture"),
        (b"Dear model", "mine.png: not a picture"),
        (png(GREY)[:45], "mine.png: cannot be read"),
        (png(GREY.astype(np.uint16)), "mine.png: holds 16-bit values of at most 63, so it is black"),
    ],
    ids=["empty", "text", "cut", "dark"],
)
def test_what_is_no_picture_is_told(content: bytes, problem: str) -> None:
    with pytest.raises(FileProblem, match=problem):
        image_of("mine.png", content, (8, 8, 1))
