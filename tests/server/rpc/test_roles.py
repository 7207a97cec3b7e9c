"""A role is compiled once for a model; every request is read on its own, whatever came before it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import ModelVersion, State
from ancestral_server.engine.job import NoiseStreams, OneShotJob, Priority
from ancestral_server.errors import InvalidArgument, RoleMissing
from ancestral_server.rpc.roles import RoleMaker, role_at, role_of
from ancestral_server.rpc.roles.base import OneShotRole, Served
from ancestral_server.rpc.roles.decode import Decode
from ancestral_server.rpc.roles.encode import Encode
from ancestral_server.runtime.program import Needs
from ancestral_server.settings import Settings

SETTINGS: Any = SimpleNamespace(max_images=8, max_batch=8, max_message_bytes=10**6)
CONTEXT: Any = SimpleNamespace(time_remaining=lambda: None)
ENDPOINT: Any = None
IMAGE, UNIFORMS = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_UNIFORMS
MEAN, LATENT = bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LATENT


def encoder(width: int = 3) -> Encode:
    """One whose images are [2,width,1] and that draws latents of 2 numbers."""
    program: Any = SimpleNamespace(
        role=bundle_pb2.Role(name="encode", graph="encode.onnx"),
        label_count=0,
        inputs={
            IMAGE: toybundle.spec("x", IMAGE, toybundle.U8, 2, width, 1),
            UNIFORMS: toybundle.spec("u", UNIFORMS, toybundle.F32, 2),
        },
        outputs={meaning: toybundle.spec("y", meaning, toybundle.F32, 2) for meaning in (MEAN, LATENT)},
        row_bytes={MEAN: 8, LATENT: 8},
    )
    return Encode(Served("toy", width, bundle_pb2.Bundle(), SETTINGS), program, ENDPOINT)


def request(value: int = 1, rows: int = 1, data: bytes | None = None, **fields: Any) -> pb.EncodeRequest:
    pixels = bytes([value] * 6 * rows) if data is None else data
    images = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=[rows, 2, 3, 1], data=pixels)
    return pb.EncodeRequest(model="toy", images=images, **fields)


def job(role: Encode, request: pb.EncodeRequest, **settings: Any) -> OneShotJob:
    async def made() -> OneShotJob:
        return role.job(request, CONTEXT, **settings)

    return asyncio.run(made())


def test_a_request_becomes_a_job_with_its_own_pixels_and_noise() -> None:
    role = encoder()
    for value in range(3):
        made = job(role, request(value, draw_seed=7, first_index=4 + value))
        images = made.inputs[IMAGE]
        assert isinstance(images, np.ndarray)
        assert images.shape == (1, 2, 3, 1)
        assert (images == value).all()
        assert not images.flags.writeable
        assert made.inputs[UNIFORMS] == NoiseStreams(7, 4 + value, (2,))
        assert (made.rows, list(made.wanted)) == (1, [MEAN, LATENT])
    assert list(job(role, request()).wanted) == [MEAN]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (request(rows=9), "images.shape: has N = 9, must be 1 to 8"),
        (request(data=b"12345"), "images.data: has 5 bytes, shape [1,2,3,1] needs 6"),
        (request(draw_seed=-1), "draw_seed: is -1"),
        (request(first_index=-1), "first_index: is -1"),
        (pb.EncodeRequest(model="toy", images=request().images, priority=cast(Any, 3)), "priority: is 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_repeats_a_good_one_but_for_a_field_is_checked_each_time(
    bad: pb.EncodeRequest, words: str
) -> None:
    role = encoder()
    for _ in range(3):
        job(role, request())
        with pytest.raises(InvalidArgument) as refused:
            job(role, bad)
        assert words in str(refused.value)
        with pytest.raises(InvalidArgument) as refused:
            job(role, bad, prefix="encode.")
        assert f"encode.{words}" in str(refused.value)


def test_each_model_has_checks_of_its_own() -> None:
    narrow, wide = encoder(), encoder(width=4)
    assert job(narrow, request()).rows == 1
    with pytest.raises(InvalidArgument, match=r"is \[1,2,3,1\], must be \[N,2,4,1\]"):
        job(wide, request())
    assert job(narrow, request()).rows == 1


def test_a_request_that_names_no_priority_has_that_of_its_method() -> None:
    role = encoder()
    assert job(role, request()).priority is Priority.INTERACTIVE
    assert job(role, request(), unset=Priority.BATCH).priority is Priority.BATCH
    assert job(role, request(priority=1), unset=Priority.BATCH).priority is Priority.INTERACTIVE


def test_a_role_that_a_model_lacks_is_named_with_those_that_it_has() -> None:
    endpoints: Any = {"encode": None}
    model = ModelVersion("toy", 1, State.SERVING, endpoints=endpoints, roles={"encode": encoder()})
    assert isinstance(role_of(model, Encode), Encode)
    with pytest.raises(RoleMissing, match="has no role 'decode'; it has encode") as missing:
        role_of(model, Decode, "encode.model")
    assert missing.value.field == "encode.model"


def test_a_role_that_no_method_asks_for_has_tensors_alone() -> None:
    made = RoleMaker(Settings(models=Path("models")))
    program: Any = SimpleNamespace(
        role=bundle_pb2.Role(name="segment", graph="s.onnx"), label_count=0, inputs={}, outputs={}
    )
    model = ModelVersion("toy", 1, State.SERVING, manifest=bundle_pb2.Bundle())
    model.roles["segment"] = made.one_shot(model, program, ENDPOINT)
    assert type(role_at(model, "segment")) is OneShotRole
    assert made.needs("segment") == Needs()
    assert made.needs("encode").outputs == (MEAN,)
