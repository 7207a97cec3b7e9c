"""Pixels on their way to the page and back."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest

from ancestral_studio.pixels import Picture, packed

SHAPE = (2, 3, 1)
PIXELS = np.arange(6, dtype=np.uint8).reshape(SHAPE)
KNOWN = np.array([[1, 0, 1], [0, 0, 1]], np.bool_)


def test_what_a_page_sends_back_is_what_it_was_sent() -> None:
    found = Picture.sent({"pixels": packed(PIXELS[:, ::-1]), "known": packed(KNOWN)}, SHAPE)
    np.testing.assert_array_equal(found.known, KNOWN)
    # What is not known has no value.
    np.testing.assert_array_equal(found.pixels[..., 0], np.where(KNOWN, PIXELS[:, ::-1, 0], 0))


def test_packed_pixels_are_bytes_in_raster_order() -> None:
    assert b64decode(packed(PIXELS)) == bytes(range(6))
    assert b64decode(packed(KNOWN)) == bytes([1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize(
    "event",
    [
        None,
        "pixels",
        {},
        {"pixels": packed(PIXELS)},
        {"pixels": packed(PIXELS), "known": None},
        {"pixels": packed(PIXELS), "known": 3},
        {"pixels": packed(PIXELS), "known": b64encode(b"12345").decode()},
        {"pixels": packed(PIXELS[:1]), "known": packed(KNOWN)},
        {"pixels": "no base64!", "known": packed(KNOWN)},
        {"pixels": "ä", "known": packed(KNOWN)},
    ],
    ids=str,
)
def test_what_is_no_drawing_of_that_shape_is_refused(event: Any) -> None:
    with pytest.raises(ValueError, match="no drawing of 2×3×1"):
        Picture.sent(event, SHAPE)


def test_pictures_to_begin_with() -> None:
    assert Picture.of(PIXELS).known.all()
    assert Picture.blank(SHAPE, known=True).known.all()
    assert not Picture.blank(SHAPE, known=False).known.any()
