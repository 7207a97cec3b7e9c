from __future__ import annotations

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert

SPEC = toybundle.IMAGE
LATENT = toybundle.spec("z", bundle_pb2.MEANING_LATENT, toybundle.F32, 2)
GOOD = np.arange(24, dtype=np.uint8).reshape(2, 4, 3, 1)


def test_a_name_of_any_length_gets_an_answer_that_fits() -> None:
    assert convert.model_name("model", "x" * 64) == "x" * 64
    with pytest.raises(InvalidArgument, match="model: has 70000 characters, must have at most 256"):
        convert.model_name("model", "x" * 70_000)


LIMIT = convert.Limit(8, "--most")


def test_a_tensor_survives_the_wire() -> None:
    assert np.array_equal(convert.BatchCheck.of(SPEC, LIMIT).array("images", convert.tensor(GOOD)), GOOD)


@pytest.mark.parametrize(
    ("tensor", "field", "problem"),
    [
        (tensor_pb2.Tensor(), "images.dtype", "DATA_TYPE_UNSPECIFIED, must be DATA_TYPE_UINT8"),
        (convert.tensor(GOOD.astype(np.float32)), "images.dtype", "DATA_TYPE_FLOAT32, must be DATA_TYPE_UINT8"),
        (tensor_pb2.Tensor(dtype=99), "images.dtype", "unknown type 99"),  # type: ignore[arg-type]
        (convert.tensor(GOOD[0]), "images.shape", r"\[4,3,1\], must be \[N,4,3,1\]"),
        (convert.tensor(GOOD.reshape(2, 3, 4, 1)), "images.shape", r"\[2,3,4,1\], must be"),
        (convert.tensor(GOOD[:0]), "images.shape", "N = 0, must be 1 to 8 \\(--most\\)"),
        (convert.tensor(GOOD.repeat(5, axis=0)), "images.shape", "N = 10, must be 1 to 8"),
        (tensor_pb2.Tensor(dtype=toybundle.U8, shape=[2, 4, 3, 1], data=b"1"), "images.data", "1 bytes, .* needs 24"),
        (tensor_pb2.Tensor(dtype=toybundle.U8, shape=[-2, 4, 3, 1], data=b""), "images.shape", "N = -2"),
    ],
)
def test_a_wrong_tensor_is_refused_with_field_value_and_limit(
    tensor: tensor_pb2.Tensor, field: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refusal:
        convert.BatchCheck.of(SPEC, LIMIT).array("images", tensor)
    assert refusal.value.field == field


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_latents_must_be_finite(bad: float) -> None:
    with pytest.raises(InvalidArgument, match="finite"):
        convert.BatchCheck.of(LATENT, LIMIT).array("latents", convert.tensor(np.array([[0, bad]], np.float32)))


@pytest.mark.parametrize("value", [float("nan"), -0.1, 100.5, float("inf")])
def test_temperature_out_of_range(value: float) -> None:
    with pytest.raises(InvalidArgument, match="must be 0 to 100"):
        convert.temperature("temperature", value)


@pytest.mark.parametrize("value", [-1, 2**63])
def test_seed_out_of_range(value: int) -> None:
    with pytest.raises(InvalidArgument, match="must be 0 to 9223372036854775807"):
        convert.seed("seed", value)


def test_a_reply_that_would_be_too_large_is_refused_with_what_fits() -> None:
    with pytest.raises(InvalidArgument, match="at most 10"):
        convert.reply_size("count", 11, 100, 1000)
