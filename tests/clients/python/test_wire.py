from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ancestral.v1 import tensor_pb2
from ancestral_client import InvalidArgument, _wire

ARRAYS = st.sampled_from([np.uint8, np.bool_, np.int32, np.int64, np.float32]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(ARRAYS)
def test_an_array_survives_the_wire(array: np.ndarray[Any, Any]) -> None:
    tensor = tensor_pb2.Tensor.FromString(_wire.pack(array).SerializeToString())
    back = _wire.unpack(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_the_wire_is_row_major_whatever_the_array_is() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert np.array_equal(_wire.unpack(_wire.pack(array)), array)


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
    batch = _wire.image_batch(array, model_shape)
    assert batch is not None
    assert batch.shape == expected
    assert batch.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(8,), (7, 8), (5, 8, 7), (5, 8, 8, 3), (1, 5, 8, 8, 1), (8, 8, 3)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    assert _wire.image_batch(np.zeros(shape, np.uint8), (8, 8, 1)) is None


def test_the_error_for_a_wrong_shape_names_what_is_accepted() -> None:
    grey = _wire.wrong_shape(np.zeros((2, 7, 7), np.uint8), (8, 8, 1), "digits-vae")
    assert str(grey) == "images: has shape [2, 7, 7]; digits-vae takes [N,8,8,1], [8,8,1], [N,8,8], [8,8]"
    assert grey.violations[0].field == "images"
    colour = _wire.wrong_shape(np.zeros((2, 7, 7), np.uint8), (8, 8, 3), "m")
    assert str(colour).endswith("m takes [N,8,8,3], [8,8,3]")


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
        _wire.image_array(images)


def test_latents_of_any_real_dtype_are_taken() -> None:
    assert _wire.latent_batch([1.0, 2.0]).shape == (1, 2)
    assert _wire.latent_batch(np.ones((3, 2), np.float64)).dtype == np.float32
    assert _wire.latent_batch(np.ones((3, 2), np.int32)).shape == (3, 2)


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
        _wire.latent_batch(latents)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_outside_the_wire_are_refused(seed: int) -> None:
    with pytest.raises(InvalidArgument, match="draw_seed: is"):
        _wire.seed_of("draw_seed", seed)


def test_timeouts() -> None:
    assert _wire.timeout_of(2) == 2.0
    assert _wire.timeout_of(math.inf) is None
    for wrong in (0, -1, math.nan):
        with pytest.raises(InvalidArgument, match="timeout: is"):
            _wire.timeout_of(wrong)
