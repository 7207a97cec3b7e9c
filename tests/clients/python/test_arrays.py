"""The checks of arrays, and the axes that callers may leave out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from ancestral_client import InvalidArgument, _arrays


@pytest.mark.parametrize(
    ("given_shape", "model_shape", "expected"),
    [
        ((5, 8, 8, 1), (8, 8, 1), (5, 8, 8, 1)),
        ((5, 8, 8), (8, 8, 1), (5, 8, 8, 1)),
        ((8, 8, 1), (8, 8, 1), (1, 8, 8, 1)),
        ((8, 8), (8, 8, 1), (1, 8, 8, 1)),
        ((8, 8, 8), (8, 8, 1), (8, 8, 8, 1)),
        ((5, 4, 6, 3), (4, 6, 3), (5, 4, 6, 3)),
        ((4, 6, 3), (4, 6, 3), (1, 4, 6, 3)),
        # A toy model whose width is 1: the whole image wins over a batch.
        ((3, 3, 1), (3, 3, 1), (1, 3, 3, 1)),
    ],
)
def test_images_get_the_axis_they_lack(
    given_shape: tuple[int, ...], model_shape: tuple[int, int, int], expected: tuple[int, ...]
) -> None:
    array = np.arange(math.prod(given_shape), dtype=np.uint32).astype(np.uint8).reshape(given_shape)
    batch = _arrays.image_batch(array, model_shape)
    assert batch is not None
    assert batch.shape == expected
    assert batch.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(8,), (7, 8), (5, 8, 7), (5, 8, 8, 3), (1, 5, 8, 8, 1), (8, 8, 3)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    assert _arrays.image_batch(np.zeros(shape, np.uint8), (8, 8, 1)) is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 4, 6, 3), 5),
        ((4, 6, 3), 1),
        # Without channels, or with one, it holds for all of them.
        ((5, 4, 6), 5),
        ((4, 6), 1),
        ((5, 4, 6, 1), 5),
        ((4, 6, 1), 1),
    ],
)
def test_masks_get_the_axes_they_lack(shape: tuple[int, ...], expected: int) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.5
    batch = _arrays.mask_batch(mask, (4, 6, 3))
    assert batch is not None
    assert batch.shape == (expected, 4, 6, 3)
    whole = mask if shape[-1] in (1, 3) else mask[..., np.newaxis]
    assert np.array_equal(batch, np.broadcast_to(whole, batch.shape))


@pytest.mark.parametrize("shape", [(4,), (6, 4), (5, 6, 4), (4, 6, 2), (1, 5, 4, 6, 3), ()])
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    assert _arrays.mask_batch(np.zeros(shape, bool), (4, 6, 3)) is None


@pytest.mark.parametrize("mask", [np.full((8, 8), 255, np.uint8), np.ones((8, 8)), [[0, 1]]], ids=["u8", "f8", "list"])
def test_a_mask_must_be_bool(mask: Any) -> None:
    with pytest.raises(InvalidArgument, match="known: must be bool, True for the pixels to keep, not") as caught:
        _arrays.mask_array("known", mask)
    assert caught.value.violations[0].field == "known"


def test_labels_are_one_number_or_one_for_each_image() -> None:
    assert _arrays.labels_of(3) == [3]
    assert _arrays.labels_of(np.uint8(3)) == [3]
    assert _arrays.labels_of([0, 2, 1]) == [0, 2, 1]
    assert _arrays.labels_of(np.array([4], np.int64)) == [4]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (1.0, "must be whole numbers, not float64"),
        ([True], "not bool"),
        ([], "not float64"),
        (np.zeros((2, 1), int), "must be one number or"),
        (np.zeros(0, int), "must be one number or"),
        ([0, -1], "is -1; must be 0 to the model's label_count - 1"),
        (2**31, "is 2147483648"),
    ],
)
def test_wrong_labels_are_refused(labels: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=f"labels: .*{said}"):
        _arrays.labels_of(labels)


@pytest.mark.parametrize(
    ("images", "scale", "said"),
    [
        ([], None, "images: has shape [0]: no image in it"),
        ("a.png", None, "not <U5; open the file first, with PIL.Image.open or numpy.load"),
        (Path("a.png"), None, "not PosixPath; open the file first, with PIL.Image.open or numpy.load"),
        (np.zeros((8, 8), int), None, "not int64; scale=1 takes whole numbers of 0 to 255"),
        (
            np.array([[0.5, np.nan], [np.inf, 0]]),
            255,
            "has NaN or infinity 2 times among 4 numbers; put",
        ),
        (np.full((8, 8), 200, np.uint8), 255, "is from 51000 to 51000; levels are 0 to 255: scale=1 takes these"),
        (np.full((8, 8), 2.5), 255, "levels are 0 to 255: scale=1 takes these"),
        (np.full((8, 8), -0.1), 255, "levels are 0 to 255: scale=255 is for [0,1]"),
        (
            [np.zeros((4, 3)), np.zeros((5, 3))],
            None,
            "have different shapes, [4, 3] and [5, 3]; make them ali",
        ),
        ([Image.new("L", (3, 4)), Image.new("L", (3, 5))], None, "different shapes, [4, 3] and [5, 3]"),
    ],
)
def test_what_makes_no_images_is_told_with_the_remedy(images: Any, scale: float | None, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _arrays.image_array("images", images, scale)
    assert said in str(caught.value)


def test_pictures_get_the_channels_of_the_model() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(2, 4, 6)
    alike = grey[..., np.newaxis].repeat(3, -1)
    for array, shape, expected in (
        (grey, (4, 6, 3), alike),
        (grey[0], (4, 6, 3), alike[:1]),
        (alike, (4, 6, 1), grey[..., np.newaxis]),
        (alike[0], (4, 6, 1), grey[:1, ..., np.newaxis]),
        (grey, (4, 6, 1), grey[..., np.newaxis]),
    ):
        found = _arrays.picture_batch(array, shape)
        assert found is not None
        np.testing.assert_array_equal(found, expected)
    assert _arrays.picture_batch(grey, (6, 4, 1)) is None
    red = alike * np.array([1, 0, 0], np.uint8)
    with pytest.warns(UserWarning, match="a picture in colour is read as grey"):
        _arrays.picture_batch(red, (4, 6, 1))


def test_the_error_for_a_wrong_shape_names_what_is_accepted() -> None:
    grey = _arrays.wrong_shape("images", np.zeros((2, 7, 7), np.uint8), (8, 8, 1), "digits-vae")
    assert str(grey) == (
        "images: has shape [2, 7, 7]; digits-vae takes [N,8,8,1], [8,8,1], [N,8,8], [8,8]; "
        "ancestral_client.pictures.resized brings an image to another size"
    )
    assert grey.violations[0].field == "images"
    colour = _arrays.wrong_shape("images", np.zeros((2, 7, 7), np.uint8), (8, 8, 3), "m")
    assert str(colour).endswith("m takes [N,8,8,3], [8,8,3]")
    mask = _arrays.wrong_shape("known", np.zeros((2, 7), bool), (8, 8, 3), "m")
    assert str(mask) == "known: has shape [2, 7]; m takes [N,8,8,3], [8,8,3], [N,8,8], [8,8]"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((8, 8), np.float32), "must be uint8 with values 0 to 255, not float32; scale to 0..255"),
        (np.zeros((8, 8), np.int64), "not int64"),
        (np.zeros((8, 8), np.bool_), "not bool"),
        (np.zeros((0, 8, 8, 1), np.uint8), "no image in it"),
        ("seven", "must be uint8"),
    ],
)
def test_what_is_no_8_bit_image_is_refused(images: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        _arrays.image_array("images", images)


def test_latents_of_any_real_dtype_are_taken() -> None:
    assert _arrays.latent_batch([1.0, 2.0]).shape == (1, 2)
    assert _arrays.latent_batch(np.ones((3, 2), np.float64)).dtype == np.float32
    assert _arrays.latent_batch(np.ones((3, 2), np.int32)).shape == (3, 2)


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        ([math.nan, 1.0], "not finite"),
        ([1e39, 1.0], "not finite"),
        (np.zeros((0, 2)), "must be \\[N,Z\\]"),
        (np.zeros((1, 2, 3)), "must be \\[N,Z\\]"),
        (np.zeros(2, np.complex64), "must be numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_wrong_latents_are_refused(latents: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        _arrays.latent_batch(latents)


@pytest.mark.parametrize(
    ("images", "scale", "levels"),
    [
        ([[0.0, 0.5, 1.0]], 255, [[0, 128, 255]]),
        (np.array([[0, 0.5, 1 + 1e-7]], np.float32), 255, [[0, 128, 255]]),
        ([[0, 8, 16]], 255 / 16, [[0, 128, 255]]),
        ([[0, 7, 255]], 1, [[0, 7, 255]]),
        ([[False, True]], 255, [[0, 255]]),
        (np.zeros((1, 3)), 1, [[0, 0, 0]]),
    ],
)
def test_scaled_images_are_levels(images: Any, scale: float, levels: list[list[int]]) -> None:
    found = _arrays.image_array("images", images, scale)
    assert found.dtype == np.uint8
    assert found.tolist() == levels


@pytest.mark.parametrize(
    ("images", "scale", "problem"),
    [
        ([[0.0, 0.5]], None, r"must be uint8 .*scale=255 for images in \[0,1\]"),
        ([[0.0, 255.0]], 255, "from 0 to 65025; levels are 0 to 255"),
        ([[-0.1, 0.5]], 255, "from -25.5 to 127.5"),
        ([[math.nan, 0.5]], 255, "has NaN or infinity 1 times among 2 numbers"),
        ([[0.0, 0.5]], 1, r"at most 0.5 of 255, all black; scale=255 is for \[0,1\]"),
        (["a"], 255, "must be numbers, not <U1"),
        ([], 255, "no image in it"),
    ],
)
def test_what_no_scale_makes_levels_of_is_refused(images: Any, scale: float | None, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        _arrays.image_array("images", images, scale)


@pytest.mark.parametrize(
    ("shape", "model", "hinted"),
    [
        ((5, 3, 4, 6), (4, 6, 3), True),
        ((3, 4, 6), (4, 6, 3), True),
        ((5, 1, 8, 8), (8, 8, 1), True),
        ((5, 7, 7), (8, 8, 1), False),
        ((5, 2, 4, 6), (4, 6, 3), False),
        ((5, 4, 6, 1), (4, 6, 3), False),
        ((3, 9, 7), (4, 6, 3), True),
    ],
)
def test_channels_that_stand_first_are_called_so(
    shape: tuple[int, ...], model: tuple[int, int, int], hinted: bool
) -> None:
    array = np.zeros(shape, np.uint8)
    assert _arrays.image_batch(array, model) is None
    told = str(_arrays.wrong_shape("images", array, model, "m"))
    assert ("channels stand first (CHW): move them last with numpy.moveaxis(images, -3, -1)" in told) == hinted
    moved = np.moveaxis(array, -3, -1)
    assert not hinted or _arrays.images_of_any_size(moved, model[2]) is not None


class Exported:
    """An array of a library that offers nothing but DLPack."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_arrays_that_only_speak_dlpack_are_taken() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert _arrays.is_array(Exported(array))
    assert _arrays.image_array("images", cast(Any, Exported(array))).tolist() == array.tolist()
