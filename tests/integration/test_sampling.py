"""SampleStream, completion and labels through the real server: a class-conditional PixelCNN and the tally family."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, tensor_pb2
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import Array, array, tensor

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def server(labelled: Path, large: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    for bundle in (labelled, large, vae):
        shutil.copytree(bundle, models / bundle.name)
    toybundle.write(models)
    with ServerProcess(models, *PATIENT) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[inference_service_pb2_grpc.InferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_service_pb2_grpc.InferenceServiceStub(channel)


Stub = inference_service_pb2_grpc.InferenceServiceStub


def violation(error: grpc.RpcError) -> error_details_pb2.BadRequest.FieldViolation:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0]


def refused(stub: Stub, **fields: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, field and description of the error that both RPCs answer a SampleRequest with."""
    request = pb.SampleRequest(**{"model": "labelled", "count": 2, "label": 1, **fields})
    with pytest.raises(grpc.RpcError) as unary:
        stub.Sample(request, timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as stream:
        next(stub.SampleStream(pb.SampleStreamRequest(sample=request), timeout=PATIENCE))
    one, other = violation(unary.value), violation(stream.value)
    assert unary.value.code() == stream.value.code()
    assert other.field == f"sample.{one.field}"
    return unary.value.code(), one.field, one.description


def test_a_stream_gives_each_image_once_with_the_bytes_and_likelihood_of_sample(stub: Stub) -> None:
    request = pb.SampleRequest(model="labelled", count=150, seed=5, first_index=30, label=2)
    whole = stub.Sample(request, timeout=PATIENCE)
    images: dict[int, Array] = {}
    likelihoods = {}
    for step in stub.SampleStream(pb.SampleStreamRequest(sample=request), timeout=PATIENCE):
        assert step.WhichOneof("event") == "image"
        assert step.image.index not in images
        assert step.image.seed == 5
        assert step.info.model == "labelled"
        assert step.info.timing.total_seconds >= step.info.timing.queue_seconds >= 0
        images[step.image.index] = array(step.image.image)
        likelihoods[step.image.index] = np.float32(step.image.log_likelihood)
    assert sorted(images) == list(range(30, 180))
    assert np.array_equal(np.stack([images[i] for i in range(30, 180)]), array(whole.images))
    assert np.array_equal(np.array([likelihoods[i] for i in range(30, 180)]), array(whole.log_likelihood))


def test_progress_paints_every_row_in_order_before_its_image(stub: Stub) -> None:
    request = pb.SampleRequest(model="labelled", count=70, seed=1, label=0)
    painted: dict[int, list[Array]] = {}
    finished = 0
    for step in stub.SampleStream(pb.SampleStreamRequest(sample=request, progress=True), timeout=PATIENCE):
        if step.WhichOneof("event") == "row":
            rows = painted.setdefault(step.row.index, [])
            assert step.row.row == len(rows)
            rows.append(array(step.row.pixels))
        else:
            assert np.array_equal(np.stack(painted[step.image.index]), array(step.image.image))
            finished += 1
    assert finished == 70


def test_a_model_that_draws_all_pixels_at_once_streams_too(stub: Stub) -> None:
    request = pb.SampleRequest(model="vae", count=130, seed=2)
    whole = array(stub.Sample(request, timeout=PATIENCE).images)
    steps = list(stub.SampleStream(pb.SampleStreamRequest(sample=request, progress=True), timeout=PATIENCE))
    assert [step.image.index for step in steps] == list(range(130))
    assert np.array_equal(np.stack([array(step.image.image) for step in steps]), whole)
    kept = {"given": tensor(np.zeros((1, *SHAPE), np.uint8)), "known": tensor(np.ones((1, *SHAPE), bool))}
    code, field, _ = refused(stub, model="vae", label=None, **kept)
    assert (code, field) == (grpc.StatusCode.UNIMPLEMENTED, "given")


def test_cancelling_a_stream_frees_its_slots_at_once(server: ServerProcess, stub: Stub) -> None:
    def figure(name: str) -> float:
        return server.metric(f"ancestral_{name}", model="large", role="sample")

    count, rows = 9000, 24
    painted = figure("batch_size_sum")
    call = stub.SampleStream(pb.SampleStreamRequest(sample=pb.SampleRequest(model="large", count=count)), timeout=600)
    next(call)
    assert figure("queued_images") > 0
    call.cancel()
    until(lambda: figure("queued_images") == 0)
    stub.Sample(pb.SampleRequest(model="large", count=1, seed=2), timeout=PATIENCE)
    # They are gone, and not finished.
    assert figure("batch_size_sum") - painted < count * rows


def test_completions_keep_what_is_known_and_differ_in_the_rest(stub: Stub) -> None:
    random = np.random.default_rng(3)
    given = random.integers(0, 256, (1, *SHAPE), dtype=np.uint8)
    known = random.random((1, *SHAPE)) < 0.4
    request = pb.SampleRequest(model="labelled", count=16, seed=4, label=1, given=tensor(given), known=tensor(known))
    images = array(stub.Sample(request, timeout=PATIENCE).images)
    assert (images[:, known[0]] == given[0][known[0]]).all()
    assert len({image.tobytes() for image in images}) > 8


def test_a_label_changes_what_is_drawn_and_what_a_score_says(stub: Stub) -> None:
    drawn = [
        array(stub.Sample(pb.SampleRequest(model="labelled", count=8, seed=1, label=label), timeout=PATIENCE).images)
        for label in range(3)
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    images = np.concatenate(drawn)
    labels = np.repeat([0, 1, 2], 8)
    each = stub.Score(pb.ScoreRequest(model="labelled", images=tensor(images), labels=labels), timeout=PATIENCE)
    same = stub.Score(pb.ScoreRequest(model="labelled", images=tensor(images), labels=[2]), timeout=PATIENCE)
    assert np.array_equal(array(each.log_likelihood)[16:], array(same.log_likelihood)[16:])
    assert array(each.log_likelihood)[:16].sum() > array(same.log_likelihood)[:16].sum()
    for wrong, field in (([], "labels"), ([0, 1], "labels"), ([3], "labels[0]")):
        with pytest.raises(grpc.RpcError) as error:
            stub.Score(pb.ScoreRequest(model="labelled", images=tensor(images), labels=wrong), timeout=PATIENCE)
        assert violation(error.value).field == field
    with pytest.raises(grpc.RpcError) as error:
        stub.ExtractFeatures(
            pb.ExtractFeaturesRequest(model="large", images=tensor(np.zeros((1, 24, 24, 1), np.uint8)), labels=[0])
        )
    assert violation(error.value).field == "labels"


BLANK = np.zeros((1, *SHAPE), np.uint8)
ALL = np.ones((1, *SHAPE), bool)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"label": None}, "label", "0 to 2"),
        ({"label": 3}, "label", "is 3, must be 0 to 2"),
        ({"label": -1}, "label", "is -1, must be 0 to 2"),
        ({"model": "large"}, "label", "is 1, must be unset"),
        ({"temperature": -0.5}, "temperature", "is -0.5, must be 0 to 100"),
        ({"temperature": float("nan")}, "temperature", "is nan, must be 0 to 100"),
        ({"count": 10_001}, "count", "is 10001, must be 1 to 10000"),
        ({"known": tensor(ALL)}, "given", "known"),
        ({"given": tensor(BLANK)}, "known", "given"),
        ({"given": tensor(BLANK), "known": tensor(ALL[:, :7])}, "known.shape", "[1,7,8,1]"),
        ({"given": tensor(BLANK[:, :, :, 0]), "known": tensor(ALL)}, "given.shape", "[1,8,8]"),
        ({"given": tensor(BLANK), "known": tensor(ALL.astype(np.uint8))}, "known.dtype", "DATA_TYPE_BOOL"),
        (
            {"count": 3, "given": tensor(np.repeat(BLANK, 2, 0)), "known": tensor(ALL)},
            "given.shape",
            "must be 1 or count = 3",
        ),
        (
            {
                "given": tensor(BLANK),
                "known": tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_BOOL, shape=(1, *SHAPE), data=b"\x02" * 64),
            },
            "known.data",
            "other than 0 and 1",
        ),
    ],
)
def test_bad_requests_name_the_field_the_value_and_the_limit(
    stub: Stub, fields: dict[str, Any], field: str, says: str
) -> None:
    code, named, description = refused(stub, **fields)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert named == field
    assert says in description


def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(server: ServerProcess, stub: Stub) -> None:
    # Others have so much to be drawn that no machine does it in time.
    held = [
        stub.SampleStream(pb.SampleStreamRequest(sample=pb.SampleRequest(model="large", count=9_000, seed=seed)))
        for seed in (1, 2)
    ]
    for call in held:
        next(call)
    with pytest.raises(grpc.RpcError) as error:
        stub.Sample(pb.SampleRequest(model="large", count=10_000, seed=1), timeout=2)
    for call in held:
        call.cancel()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert violation(error.value).field == "deadline"
    assert "s remain" in violation(error.value).description
