"""What a model takes, and what becomes of images of another size."""

from __future__ import annotations

import numpy as np
import pytest

from ancestral_client import pictures
from ancestral_client.fitting import Fit, Misfit, Resize

GREY, COLOUR = Fit("grey", (4, 6, 1)), Fit("colour", (4, 6, 3))
RANDOM = np.random.default_rng(0)


def levels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("how", ["crop", "fit", "stretch"])
@pytest.mark.parametrize(
    ("fit", "shape", "count"),
    [
        (GREY, (5, 9, 7, 1), 5),
        (GREY, (5, 9, 7), 5),
        (GREY, (9, 7, 1), 1),
        (GREY, (9, 7), 1),
        (COLOUR, (5, 9, 7, 3), 5),
        (COLOUR, (9, 7, 3), 1),
    ],
)
def test_arrays_of_another_size_are_resized_as_pictures_are(
    fit: Fit, shape: tuple[int, ...], count: int, how: Resize
) -> None:
    array = levels(*shape)
    with pytest.raises(Misfit, match=rf"9×7, {fit.model} takes 4×6; --resize crop, fit or stretch makes it so"):
        fit.images(array)
    found = Fit(fit.model, fit.shape, how).images(array)
    assert found.shape == (count, *fit.shape)
    for image, made in zip(array.reshape(count, 9, 7, -1), found, strict=True):
        np.testing.assert_array_equal(pictures.resized(image, (4, 6), how).reshape(fit.shape), made)


@pytest.mark.parametrize(
    ("fit", "shape", "said"),
    [
        (GREY, (5, 9, 7, 2), r"has shape \[5, 9, 7, 2\]; grey takes"),
        (COLOUR, (5, 9, 7, 4), "has shape"),
        (COLOUR, (3, 9, 7), r"its channels stand first \(CHW\)"),
        (COLOUR, (5, 3, 9, 7), r"its channels stand first \(CHW\)"),
        (GREY, (5, 1, 9, 7), r"its channels stand first \(CHW\)"),
        (GREY, (0, 9, 7), r"has shape \[0, 9, 7\]: no image in it"),
        (GREY, (24,), r"has shape \[24\]"),
    ],
)
def test_what_is_no_image_is_not_made_one_by_resizing(fit: Fit, shape: tuple[int, ...], said: str) -> None:
    for how in (None, "stretch"):
        with pytest.raises(Misfit, match=said):
            Fit(fit.model, fit.shape, how).images(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("fit", "shape", "count"),
    [
        (GREY, (9, 7, 3), 1),  # one in colour, not 9 that are 3 pixels wide
        (GREY, (5, 9, 7, 3), 5),
        (GREY, (5, 9, 3, 3), 5),
        (COLOUR, (5, 9, 7), 5),
        (COLOUR, (5, 9, 7, 1), 5),
        (COLOUR, (9, 7), 1),
    ],
)
def test_arrays_get_the_channels_of_the_model_as_pictures_do(fit: Fit, shape: tuple[int, ...], count: int) -> None:
    array = levels(*shape)
    resizing = Fit(fit.model, fit.shape, "crop")
    found = resizing.images(array)
    assert found.shape == (count, *fit.shape)
    one_by_one = array.reshape(count, *shape[-3:]) if fit is GREY else array.reshape(count, 9, 7)
    for image, made in zip(one_by_one, found, strict=True):
        np.testing.assert_array_equal(resizing.picture(image)[0], made)
    assert resizing.loses_colours(array) == (fit is GREY)
    assert not resizing.loses_colours(np.full_like(array, 9)), "grey in three channels has none to lose"


def test_numbers_become_levels_where_a_scale_is_given() -> None:
    numbers = np.linspace(0, 1, 24).reshape(1, 4, 6, 1)
    with pytest.raises(Misfit, match=r"must be uint8 .* --scale 255 for images in \[0,1\]"):
        GREY.images(numbers)
    scaled = Fit("grey", (4, 6, 1), scale=255)
    np.testing.assert_array_equal(scaled.images(numbers), np.rint(numbers * 255))
    levels_of_picture = np.full((4, 6), 200, np.uint8)
    assert (scaled.picture(levels_of_picture)[0] == 200).all(), "a picture has its own levels"


def test_what_fits_is_left_as_it_is() -> None:
    array = levels(5, 4, 6, 1)
    assert np.shares_memory(Fit("grey", (4, 6, 1), "crop").images(array), array)


def test_a_mask_goes_the_way_of_its_image() -> None:
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    assert Fit("grey", (4, 4, 1), "stretch").mask(left)[..., 0].tolist() == [[True, True, False, False]] * 4
    around = Fit("colour", (4, 8, 3), "fit").mask(np.ones((8, 8), bool))
    assert around.shape == (4, 8, 3)
    assert around[0, :, 0].tolist() == [False] * 2 + [True] * 4 + [False] * 2, "black is added on both sides"
    with pytest.raises(Misfit, match=r"has shape \[8, 8\], the model's images have \[4, 4, 1\]"):
        Fit("grey", (4, 4, 1)).mask(left)
