"""The real server over a real channel, with a bundle of a made-up family that torch never saw."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from running import PATIENT, ServerProcess
from waiting import PATIENCE
from wire import array, inference, tensor, toy_images


def test_samples_are_painted_row_by_row_from_their_own_streams(toy_server: ServerProcess) -> None:
    reply = inference(toy_server).Sample(
        pb.SampleRequest(model="tally", count=100, seed=7, first_index=1000), timeout=PATIENCE
    )
    images, likelihood = toybundle.paint(uniforms_of_range(7, 1000, 100, (4, 3, 1)))
    assert np.array_equal(array(reply.images), images)
    np.testing.assert_allclose(array(reply.log_likelihood), likelihood, rtol=1e-5)
    assert (reply.seed, reply.first_index, reply.info.model, reply.info.version) == (7, 1000, "tally", 1)


def test_a_sample_is_the_same_alone_in_any_batch_and_while_others_run(toy_server: ServerProcess) -> None:
    stub = inference(toy_server)
    alone = [
        stub.Sample(pb.SampleRequest(model="tally", count=1, seed=3, first_index=i), timeout=PATIENCE)
        for i in range(16)
    ]
    noise = [stub.Sample.future(pb.SampleRequest(model="tally", count=50, seed=s), timeout=PATIENCE) for s in range(20)]
    batch = stub.Sample(pb.SampleRequest(model="tally", count=16, seed=3), timeout=PATIENCE)
    assert b"".join(reply.images.data for reply in alone) == batch.images.data
    assert len({call.result().images.data for call in noise}) == 20


def test_a_seed_that_nobody_gave_is_drawn_and_returned(toy_server: ServerProcess) -> None:
    stub = inference(toy_server)
    first, second = (stub.Sample(pb.SampleRequest(model="tally", count=4), timeout=PATIENCE) for _ in range(2))
    assert first.seed != second.seed
    again = stub.Sample(pb.SampleRequest(model="tally", count=4, seed=first.seed), timeout=PATIENCE)
    assert again.images.data == first.images.data


def test_encode_and_score(toy_server: ServerProcess) -> None:
    stub = inference(toy_server)
    # More than a batch, so the request is split and joined again.
    images = toy_images(150)
    code = array(stub.Encode(pb.EncodeRequest(model="tally", images=tensor(images)), timeout=PATIENCE).mean)
    np.testing.assert_allclose(code, toybundle.encode(images), rtol=1e-5)
    score = stub.Score(pb.ScoreRequest(model="tally", images=tensor(images)), timeout=PATIENCE)
    np.testing.assert_allclose(array(score.log_likelihood), -toybundle.encode(images)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(array(score.bits_per_dim), toybundle.encode(images)[:, 0] / (12 * np.log(2)), rtol=1e-5)


def test_concurrent_single_calls_form_batches_and_each_gets_its_own_answer(toy_models: Path) -> None:
    images = toy_images(640)

    sizes: list[int] = []

    async def ask_all(address: str) -> list[np.ndarray[Any, Any]]:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

            async def one(i: int) -> np.ndarray[Any, Any]:
                request = pb.EncodeRequest(model="tally", images=tensor(images[i : i + 1]))
                reply = await stub.Encode(request, timeout=PATIENCE)
                sizes.append(reply.info.timing.batch_size)
                return array(reply.mean)

            replies = []
            for start in range(0, len(images), 64):
                replies += await asyncio.gather(*(one(i) for i in range(start, start + 64)))
            return replies

    # With patience even a busy machine gathers all 64; how large batches get by default depends on its load.
    with ServerProcess(toy_models, "--batch-wait-ms", "1000", *PATIENT) as server:
        codes = np.concatenate(asyncio.run(ask_all(server.address)))
        np.testing.assert_allclose(codes, toybundle.encode(images), rtol=1e-5)
        total = server.metric("ancestral_batch_size_sum", role="encode")
        runs = server.metric("ancestral_batch_size_count", role="encode")
        assert total == len(images)
        assert total / runs > 8
        # Each reply tells the size of its run: of a run of B there are B replies.
        assert sum(1 / size for size in sizes) == pytest.approx(runs)
        assert server.metric("ancestral_request_queue_seconds_count", role="encode") == len(images)


def test_metrics_carry_the_names_that_dashboards_know(toy_server: ServerProcess) -> None:
    stub = inference(toy_server)
    labels = {"grpc_method": "Encode", "grpc_service": "ancestral.v1.InferenceService", "grpc_type": "unary"}
    before = toy_server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels)
    with pytest.raises(grpc.RpcError):
        stub.Encode(pb.EncodeRequest(model="tally"), timeout=PATIENCE)
    assert toy_server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels) == before + 1
    text = toy_server.metrics()
    # There before the first call, so that rates and alerts work at once.
    assert re.search(r'grpc_server_handled_total\{grpc_code="FailedPrecondition",grpc_method="Score".*\} 0.0', text)
    for name in ("started_total", "msg_received_total", "msg_sent_total", "handling_seconds_bucket"):
        assert f"grpc_server_{name}{{" in text
    assert toy_server.metric("ancestral_model_serving", model="tally", version="1") == 1


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (pb.SampleRequest(model="tally"), "count", "is 0, must be 1 to 10000 (the server's"),
        (
            pb.SampleRequest(model="tally", count=-3),
            "count",
            "is -3, must be 1 to 10000 (the server's ",
        ),
        (
            pb.SampleRequest(model="tally", count=10_001),
            "count",
            "is 10001, must be 1 to 10000 (the server's ",
        ),
        (pb.SampleRequest(model="tally", count=1, seed=-1), "seed", "is -1, must be 0 to 9223372036854775807"),
        (pb.SampleRequest(model="tally", count=1, first_index=-1), "first_index", "is -1, must be 0 to"),
        (pb.SampleRequest(model="tally", count=1, temperature=float("nan")), "temperature", "is nan, must be 0 to 100"),
        (pb.SampleRequest(model="tally", count=1, temperature=-1), "temperature", "is -1.0, must be 0 to 100"),
        (pb.SampleRequest(model="tally", count=1, version=-1), "version", "is -1"),
        (pb.SampleRequest(count=1), "model", "is empty"),
        (pb.EncodeRequest(model="tally"), "images.dtype", "must be DATA_TYPE_UINT8"),
        (pb.EncodeRequest(model="tally", images=tensor(np.zeros((1, 8, 8, 1), np.uint8))), "images.shape", "[N,4,3,1]"),
        (pb.ScoreRequest(model="tally", images=tensor(np.zeros((1, 4, 3, 1), np.uint8)), seed=-5), "seed", "is -5"),
        (
            pb.SampleRequest(model="tally", count=1, priority=cast(Any, 9)),
            "priority",
            "is 9, must be PRIORITY_INTERACTIVE or",
        ),
    ],
)
def test_bad_input_names_field_value_and_limit(
    toy_server: ServerProcess, request_: Any, field: str, words: str
) -> None:
    method = type(request_).__name__.removesuffix("Request")
    call = getattr(inference(toy_server), method)
    with pytest.raises(grpc.RpcError) as failure:
        call(request_, timeout=PATIENCE, metadata=[("x-request-id", "my-id")])
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(failure.value)
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == field
    assert words in violation.description
    assert details["RequestInfo"].request_id == "my-id"
    assert details["ErrorInfo"].reason == "INVALID_ARGUMENT"


def details_of(error: grpc.RpcError) -> dict[str, Any]:
    status = rpc_status.from_call(error)
    assert status is not None
    found = {}
    for detail in status.details:
        name = detail.TypeName().rsplit(".", 1)[1]
        found[name] = getattr(error_details_pb2, name)()
        detail.Unpack(found[name])
    return found


def test_an_unknown_model_is_not_found_and_the_names_are_listed(toy_server: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError, match="there are: tally") as failure:
        inference(toy_server).Sample(pb.SampleRequest(model="nobody", count=1), timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert details_of(failure.value)["ResourceInfo"].resource_name == "nobody"
    with pytest.raises(grpc.RpcError, match="no version 9; it has 1"):
        inference(toy_server).Sample(pb.SampleRequest(model="tally", count=1, version=9), timeout=PATIENCE)


def test_a_shape_of_a_million_axes_is_refused_with_what_is_wrong(toy_server: ServerProcess) -> None:
    images = tensor(np.zeros((1, 4, 3, 1), np.uint8))
    images.shape.extend([1] * 10**6)
    with pytest.raises(grpc.RpcError, match="has 1000004 axes, must have at most 16") as failure:
        inference(toy_server).Encode(pb.EncodeRequest(model="tally", images=images), timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(failure.value)["BadRequest"].field_violations[0].field == "images.shape"


def test_a_folder_of_a_hundred_models_one_of_no_name_hinders_nobody(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    for number in range(150):
        (tmp_path / f"a-model-whose-name-is-not-short-{number}" / "1").mkdir(parents=True)
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9/1")
    with ServerProcess(tmp_path) as server:
        with pytest.raises(grpc.RpcError, match=r"there are: a-model.* and 141 more") as failure:
            inference(server).Sample(pb.SampleRequest(model="taly", count=1), timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        assert details_of(failure.value)["ResourceInfo"].resource_name == "taly"
        assert server.metric("ancestral_model_serving", model="tally") == 1
        assert any("a model's folder cannot be read" in line and "udce9" in line for line in server.log)


def test_a_role_that_the_model_lacks_is_unimplemented(toy_server: ServerProcess) -> None:
    request = pb.DecodeRequest(model="tally", latents=tensor(np.zeros((1, 2), np.float32)))
    with pytest.raises(grpc.RpcError, match="no role 'decode'; it has encode, sample, score") as failure:
        inference(toy_server).Decode(request, timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert details_of(failure.value)["BadRequest"].field_violations[0].field == "model"


def test_an_expired_deadline_is_answered_and_the_server_goes_on(toy_server: ServerProcess) -> None:
    stub = inference(toy_server)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Sample(pb.SampleRequest(model="tally", count=10_000, seed=1), timeout=0.02)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(stub.Sample(pb.SampleRequest(model="tally", count=3, seed=1), timeout=PATIENCE).images.data) == 36


def test_models_are_described(toy_server: ServerProcess) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(toy_server.address))
    (model,) = stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=PATIENCE).models
    assert stub.GetModel(model_service_pb2.GetModelRequest(name="tally"), timeout=PATIENCE).model == model
    assert (model.name, model.version, model.device) == ("tally", 1, "cpu")
    assert model.state == model_service_pb2.MODEL_STATE_SERVING
    assert {role.name for role in model.bundle.roles} == {"encode", "sample", "score"}
    assert model.limits.max_sample_count == 10_000


def test_reflection_lists_the_services(toy_server: ServerProcess) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(grpc.insecure_channel(toy_server.address))
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE)
    names = {service.name for service in reply.list_services_response.service}
    assert {"ancestral.v1.InferenceService", "ancestral.v1.ModelService", "grpc.health.v1.Health"} <= names
