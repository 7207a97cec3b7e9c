"""Bad input gets a clear error that names the field, the value and the limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from inference import open_inference_service_pb2 as oip
from openinference import SHAPE, Stub, ask, infer, some_images, violation, with_parameters
from running import ServerProcess
from waiting import PATIENCE


def good() -> oip.ModelInferRequest:
    return ask("labelled.score", image=some_images(2), label=np.array([0, 1]))


def typed() -> oip.ModelInferRequest:
    return ask("labelled.score", typed=True, image=some_images(2), label=np.array([0, 1]))


def samples(**parameters: Any) -> oip.ModelInferRequest:
    return with_parameters(ask("labelled", index=np.arange(2)), **{"label": 1, **parameters})


def completion(**inputs: Any) -> oip.ModelInferRequest:
    return with_parameters(ask("labelled", index=np.arange(2), **inputs), label=1)


def changed(request: oip.ModelInferRequest, change: Callable[[oip.ModelInferRequest], object]) -> oip.ModelInferRequest:
    change(request)
    return request


def resize(tensor: oip.ModelInferRequest.InferInputTensor, *shape: int) -> None:
    tensor.shape[:] = shape


BAD: list[tuple[oip.ModelInferRequest, str, str]] = [
    (oip.ModelInferRequest(), "model_name", "is empty"),
    (oip.ModelInferRequest(model_name="x" * 100_000), "model_name", "has 100000 characters, must have at most 256"),
    (ask("tally", version="one"), "model_version", "is 'one', must be \"\""),
    (ask("tally", version="0"), "model_version", "is '0'"),
    (ask("tally", version="-1"), "model_version", "is '-1'"),
    (ask("tally", version="9" * 5000), "model_version", "is '9999"),
    (ask("tally", version="³"), "model_version", "is '³'"),
    (changed(good(), lambda r: setattr(r, "id", "i" * 300)), "id", "has 300 characters, must have at most 256"),
    (ask("tally"), "inputs", "has no 'image', must have 'image'"),
    (ask("labelled.score", image=some_images(2)), "inputs", "has no 'label', must have 'image', 'label'"),
    (ask("tally", picture=some_images(1)), "inputs[0].name", "is 'picture', there is no such input; there are 'image'"),
    (ask("vae", image=some_images(1), uniforms=some_images(1)), "inputs[1].name", "is 'uniforms', there is no such"),
    (
        changed(good(), lambda r: setattr(r.inputs[1], "name", "image")),
        "inputs[1].name",
        "is 'image' a second time",
    ),
    (ask("vae", image=np.zeros((1, *SHAPE), np.float32)), "inputs[0].datatype", "is 'FP32', must be 'UINT8'"),
    (changed(good(), lambda r: r.inputs[0].ClearField("datatype")), "inputs[0].datatype", "is '', must be 'UINT8'"),
    (ask("vae", image=some_images(1, (4, 4, 1))), "inputs[0].shape", "is [1,4,4,1], must be [N,8,8,1]"),
    (ask("vae", image=some_images(1)[0]), "inputs[0].shape", "is [8,8,1], must be [N,8,8,1]"),
    (changed(good(), lambda r: resize(r.inputs[0], -1, 8, 8, 1)), "inputs[0].shape", "has N = -1, must be 1 to 500"),
    (changed(good(), lambda r: resize(r.inputs[0], 2**62, 8, 8, 1)), "inputs[0].shape", "has N = 46116860"),
    (changed(good(), lambda r: resize(r.inputs[0])), "inputs[0].shape", "is [], must be"),
    (ask("vae", image=some_images(0)), "inputs[0].shape", "has N = 0, must be 1 to 500"),
    (ask("vae", image=some_images(501)), "inputs[0].shape", "has N = 501, must be 1 to 500"),
    (ask("tally.sample", index=np.arange(0)), "inputs[0].shape", "has N = 0, must be 1 to 400"),
    (ask("tally.sample", index=np.arange(401)), "inputs[0].shape", "has N = 401, must be 1 to 400"),
    (
        ask("labelled.score", image=some_images(2), label=np.arange(3)),
        "inputs[1].shape",
        "has N = 3, must be 2 as in the inputs before it",
    ),
    (changed(good(), lambda r: r.raw_input_contents.pop()), "raw_input_contents", "holds 1 tensors, must hold 2"),
    (
        changed(good(), lambda r: r.raw_input_contents.append(b"")),
        "raw_input_contents",
        "holds 3 tensors, must hold 2, one for each of inputs",
    ),
    (
        changed(good(), lambda r: r.raw_input_contents.__setitem__(0, b"123")),
        "raw_input_contents[0]",
        "has 3 bytes, shape [2,8,8,1] needs 128",
    ),
    (
        changed(typed(), lambda r: r.raw_input_contents.extend([b"", b""])),
        "inputs[0].contents",
        "is set, must not be beside raw_input_contents",
    ),
    (
        changed(good(), lambda r: r.raw_input_contents.__delitem__(slice(None))),
        "inputs[0].contents.uint_contents",
        "holds 0 elements, shape [2, 8, 8, 1] needs 128",
    ),
    (
        changed(typed(), lambda r: r.inputs[0].contents.uint_contents.pop()),
        "inputs[0].contents.uint_contents",
        "holds 127 elements, shape [2, 8, 8, 1] needs 128",
    ),
    (
        changed(typed(), lambda r: r.inputs[0].contents.uint_contents.__setitem__(5, 256)),
        "inputs[0].contents.uint_contents",
        "holds 256, must hold 0 to 255",
    ),
    (
        changed(typed(), lambda r: r.inputs[0].contents.fp32_contents.append(1)),
        "inputs[0].contents.fp32_contents",
        "is set, elements of UINT8 come in uint_contents",
    ),
    (ask("labelled.score", image=some_images(2), label=np.array([0, 3])), "raw_input_contents[1]", "holds 3 in row 1"),
    (
        ask("labelled.score", typed=True, image=some_images(2), label=np.array([-1, 0])),
        "inputs[1].contents.int64_contents",
        "holds -1 in row 0, must hold 0 to 2",
    ),
    (with_parameters(ask("tally.sample", index=np.array([0, -2]))), "raw_input_contents[0]", "holds -2 in row 1"),
    (ask("vae.decode", latent=np.full((1, 4), np.nan, np.float32)), "raw_input_contents[0]", "holds NaN or infinite"),
    (
        ask("vae.decode", typed=True, latent=np.full((1, 4), np.inf, np.float32)),
        "inputs[0].contents.fp32_contents",
        "holds NaN or infinite",
    ),
    (
        ask("vae", outputs=("mean", "code"), image=some_images(1)),
        "outputs[1].name",
        "is 'code', there is no such output",
    ),
    (ask("vae", outputs=("mean", "mean"), image=some_images(1)), "outputs[1].name", "is 'mean' a second time"),
    (
        completion(given=some_images(2)),
        "inputs",
        "has no 'known', must have all of 'given', 'known' or none of them",
    ),
    (completion(known=np.ones((2, *SHAPE), np.bool_)), "inputs", "has no 'given', must have all of 'given', 'known'"),
    (
        completion(given=some_images(3), known=np.ones((1, *SHAPE), np.bool_)),
        "inputs[1].shape",
        "has N = 3, must be 1, or 2 as in the other inputs",
    ),
    (
        completion(given=some_images(1, (4, 4, 1)), known=np.ones((1, *SHAPE), np.bool_)),
        "inputs[1].shape",
        "is [1,4,4,1], must be [N,8,8,1]",
    ),
    (
        completion(given=some_images(1), known=np.ones((1, *SHAPE), np.uint8)),
        "inputs[2].datatype",
        "is 'UINT8', must be 'BOOL'",
    ),
    (
        changed(
            completion(given=some_images(1), known=np.ones((1, *SHAPE), np.bool_)),
            lambda r: r.raw_input_contents.__setitem__(2, b"\x02" * 64),
        ),
        "raw_input_contents[2]",
        "holds bytes other than 0 and 1",
    ),
    (
        ask("tally.sample", given=some_images(1, (4, 3, 1)), known=np.ones((1, 4, 3, 1), np.bool_)),
        "inputs",
        "has no 'index', must have 'index'",
    ),
    (
        ask("vae.sample", index=np.arange(2), given=some_images(2)),
        "inputs[1].name",
        "is 'given', there is no such input",
    ),
    (samples(seed=-1), "parameters[seed]", "is -1, must be 0 to 9223372036854775807"),
    (samples(seed="7"), "parameters[seed]", "is '7' (string_param), must be an integer (int64_param)"),
    (samples(seed=1.5), "parameters[seed]", "is 1.5 (double_param), must be an integer"),
    (samples(temperature=-1.0), "parameters[temperature]", "is -1.0, must be 0 to 100"),
    (samples(temperature=float("nan")), "parameters[temperature]", "is nan, must be 0 to 100"),
    (samples(temperature=True), "parameters[temperature]", "is True (bool_param), must be a number"),
    (samples(label=3), "parameters[label]", "is 3, must be 0 to 2"),
    (ask("labelled", index=np.arange(2)), "parameters[label]", "is not set, must be 0 to 2"),
    (with_parameters(ask("tally.sample", index=np.arange(2)), label=0), "parameters[label]", "is 0, must be unset"),
    (with_parameters(good(), temperature=1.0), "parameters[temperature]", "is set, must be unset: score takes no such"),
    (samples(priority=3), "parameters[priority]", "is 3, must be 0 or 1 (interactive) or 2 (batch)"),
    (samples(timeout=-5), "parameters[timeout]", "is -5 microseconds, must be 0 (none) to"),
    (
        samples(temprature=1.0),
        "parameters[temprature]",
        "is unknown; there are draws, label, priority, seed, temperature",
    ),
    (
        changed(samples(), lambda r: r.parameters["seed"].ClearField("int64_param")),
        "parameters[seed]",
        "is empty, must be an integer",
    ),
    (
        changed(good(), lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "mine")),
        "inputs[0].parameters[shared_memory_region]",
        "is not supported",
    ),
    (
        changed(
            ask("vae", outputs=("mean",), image=some_images(1)),
            lambda r: setattr(r.outputs[0].parameters["classification"], "int64_param", 3),
        ),
        "outputs[0].parameters[classification]",
        "is not supported",
    ),
]


@pytest.mark.parametrize(("request_", "field", "words"), BAD)
def test_bad_input_names_field_value_and_limit(
    stub: Stub, request_: oip.ModelInferRequest, field: str, words: str
) -> None:
    # Again and again: what is known of a request that came before excuses nothing.
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as failure:
            stub.ModelInfer(request_, timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failure.value.details()
        said = violation(failure.value)
        assert said.field == field
        assert words in said.description


def test_what_the_bad_requests_were_made_of_is_good(stub: Stub) -> None:
    for request in (good(), typed(), samples(), samples(seed=3, temperature=1, timeout=60_000_000, priority=2)):
        for _ in range(3):
            assert infer(stub, request)


def test_a_reply_that_would_be_too_large_is_refused_with_what_fits(toy_models: Path) -> None:
    flags = ("--max-message-mib", "1", "--max-sample-count", "100000", "--max-queued-images", "100000")
    with ServerProcess(toy_models, *flags) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError, match="at most ") as failure:
            Stub(channel).ModelInfer(ask("tally.sample", index=np.arange(100_000)), timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert violation(failure.value).field == "inputs[0].shape"
        most = int((failure.value.details() or "").rsplit("at most ", 1)[1])
        reply = infer(Stub(channel), ask("tally.sample", index=np.arange(most)))
        assert reply["image"].shape == (most, 4, 3, 1)


def test_a_version_without_a_name_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelStatistics(oip.ModelStatisticsRequest(version="1"), timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(failure.value).field == "version"


def test_a_timeout_ends_a_request_before_its_deadline(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(samples(timeout=1), timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The server's words: of a deadline of gRPC's own it says nothing.
    status = rpc_status.from_call(failure.value)
    assert status is not None, "the deadline of gRPC came first"
