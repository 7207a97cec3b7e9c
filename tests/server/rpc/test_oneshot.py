"""What is found out about a request holds for the model that it was found out about, and for no other."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import ModelVersion, State
from ancestral_server.engine.job import OneShotJob, Priority, Streams
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import oneshot
from ancestral_server.rpc.repeats import Reader, Request
from ancestral_server.runtime.program import Program

SETTINGS: Any = SimpleNamespace(max_images=8, max_message_bytes=10**6)
CONTEXT: Any = SimpleNamespace(time_remaining=lambda: None)
IMAGE, UNIFORMS = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_UNIFORMS


def model(width: int = 3) -> ModelVersion:
    """One whose images are [2,width,1]."""
    program: Any = SimpleNamespace(
        inputs={
            IMAGE: toybundle.spec("x", IMAGE, toybundle.U8, 2, width, 1),
            UNIFORMS: toybundle.spec("u", UNIFORMS, toybundle.F32, 2),
        },
        outputs=dict.fromkeys((bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LATENT)),
        row_bytes={bundle_pb2.MEANING_MEAN: 8, bundle_pb2.MEANING_LATENT: 8},
    )
    programs: dict[str, Program] = {"encode": program}
    return ModelVersion("toy", width, State.SERVING, programs=programs)


def requests(count: int, **fields: Any) -> list[Request]:
    """Of one form, with pixels of their own, as a reader gives them."""
    reader = Reader(pb.EncodeRequest)
    images = [
        tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=[1, 2, 3, 1], data=bytes([i] * 6))
        for i in range(count)
    ]
    return [reader(pb.EncodeRequest(model="toy", images=image, **fields).SerializeToString()) for image in images]


def job(model: ModelVersion, request: Request, **settings: Any) -> OneShotJob:
    async def made() -> OneShotJob:
        return oneshot.job("encode", model, request, SETTINGS, CONTEXT, **settings)

    return asyncio.run(made())


def test_requests_of_one_form_are_checked_once_and_keep_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    known = model()
    seen = requests(5, draw_seed=7, first_index=4)
    jobs = [job(known, request) for request in seen[:3]]
    with monkeypatch.context() as patch:
        patch.setattr(oneshot, "_plan", lambda *_: pytest.fail("it was checked again"))
        jobs += [job(known, request) for request in seen[3:]]
    for i, made in enumerate(jobs):
        images = made.inputs[IMAGE]
        assert isinstance(images, np.ndarray)
        assert images.shape == (1, 2, 3, 1)
        assert (images == i).all()
        assert made.inputs[UNIFORMS] == Streams(7, 4, (2,))
        assert made.rows == 1


def test_another_model_checks_anew_and_so_does_the_first_when_it_is_back() -> None:
    narrow, wide = model(), model(width=4)
    request = requests(3)[-1]
    assert job(narrow, request).rows == 1
    with pytest.raises(InvalidArgument, match=r"is \[1,2,3,1\], must be \[N,2,4,1\]"):
        job(wide, request)
    assert job(narrow, request).rows == 1


def test_a_model_that_is_gone_is_not_kept() -> None:
    gone = model()
    request = requests(3)[-1]
    job(gone, request)
    watched = ref(gone)
    del gone
    gc.collect()
    assert request.form.plan is not None
    assert watched() is None
    assert job(model(), request).rows == 1


def test_a_request_that_names_no_priority_has_that_of_its_method() -> None:
    assert job(model(), requests(1)[0]).priority is Priority.INTERACTIVE
    assert job(model(), requests(1)[0], unset=Priority.BATCH).priority is Priority.BATCH
    assert job(model(), requests(1, priority=1)[0], unset=Priority.BATCH).priority is Priority.INTERACTIVE
