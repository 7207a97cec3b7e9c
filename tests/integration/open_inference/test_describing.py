"""What the server says of itself, its models and their work, and that it is found."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import toybundle
from inference import model_config_pb2
from inference import open_inference_service_pb2 as oip
from openinference import Stub, ask, infer, some_images
from running import ServerProcess
from waiting import PATIENCE


def test_the_server_is_live_ready_and_says_what_it_is(stub: Stub) -> None:
    assert stub.ServerLive(oip.ServerLiveRequest(), timeout=PATIENCE).live
    assert stub.ServerReady(oip.ServerReadyRequest(), timeout=PATIENCE).ready
    said = stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=PATIENCE)
    assert (said.name, said.version) == ("ancestral", metadata.version("ancestral"))
    assert {"statistics", "model_configuration", "model_repository", "binary_tensor_data"} <= set(said.extensions)


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("tally", "", True),
        ("tally.encode", "", True),
        ("tally", "3", True),
        ("tally", "2", False),
        ("tally.decode", "", False),
        ("tally.", "", False),
        ("nobody", "", False),
        ("wrong", "", False),
        ("wrong.encode", "", False),
    ],
)
def test_models_are_ready_where_they_answer(stub: Stub, name: str, version: str, ready: bool) -> None:
    assert stub.ModelReady(oip.ModelReadyRequest(name=name, version=version), timeout=PATIENCE).ready is ready


Tensors = list[tuple[str, str, list[int]]]


@pytest.mark.parametrize(
    ("name", "role", "inputs", "outputs"),
    [
        ("vae", "encode", [("image", "UINT8", [-1, 8, 8, 1])], ["mean", "log_variance", "latent"]),
        ("vae.decode", "decode", [("latent", "FP32", [-1, 4])], ["image", "pixel_mean", "pixel_variance"]),
        ("vae.sample", "sample", [("index", "INT64", [-1, 1])], ["image"]),
        (
            "labelled",
            "sample",
            [("index", "INT64", [-1, 1]), ("given", "UINT8", [-1, 8, 8, 1]), ("known", "BOOL", [-1, 8, 8, 1])],
            ["image", "log_likelihood"],
        ),
        (
            "labelled.score",
            "score",
            [("image", "UINT8", [-1, 8, 8, 1]), ("label", "INT64", [-1, 1])],
            ["log_likelihood"],
        ),
    ],
)
def test_metadata_and_configuration_agree(
    stub: Stub, name: str, role: str, inputs: Tensors, outputs: list[str]
) -> None:
    said = stub.ModelMetadata(oip.ModelMetadataRequest(name=name), timeout=PATIENCE)
    assert (said.name, said.platform, list(said.versions)) == (name, "onnxruntime_onnx", ["1"])
    assert dict(said.properties) == {"role": role, "device": "cpu"}
    assert [(t.name, t.datatype, list(t.shape)) for t in said.inputs] == inputs
    assert [t.name for t in said.outputs] == outputs
    config = stub.ModelConfig(oip.ModelConfigRequest(name=name), timeout=PATIENCE).config
    assert (config.name, config.platform, config.backend) == (name, "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == (400 if role == "sample" else 500)
    assert config.HasField("dynamic_batching")
    assert [c.name for c in config.input if c.optional] == [name for name, _, _ in inputs if name in ("given", "known")]
    sides: tuple[tuple[Any, Any], ...] = ((said.inputs, config.input), (said.outputs, config.output))
    for told, configured in sides:
        names = [model_config_pb2.DataType.Name(c.data_type).removeprefix("TYPE_") for c in configured]
        assert [(t.name, t.datatype, list(t.shape)[1:]) for t in told] == [
            (c.name, datatype, list(c.dims)) for c, datatype in zip(configured, names, strict=True)
        ]


def test_versions_are_listed_and_the_highest_that_serves_answers(stub: Stub) -> None:
    assert list(stub.ModelMetadata(oip.ModelMetadataRequest(name="tally"), timeout=PATIENCE).versions) == ["1", "3"]
    images = some_images(2, (4, 3, 1))
    replies = [
        stub.ModelInfer(ask("tally", version=v, id="mine", image=images), timeout=PATIENCE) for v in ("", "1", "3")
    ]
    assert [reply.model_version for reply in replies] == ["3", "1", "3"]
    assert {(reply.model_name, reply.id) for reply in replies} == {("tally", "mine")}


def test_a_whole_name_goes_before_a_role(stub: Stub) -> None:
    assert (
        stub.ModelMetadata(oip.ModelMetadataRequest(name="tally.score"), timeout=PATIENCE).properties["role"]
        == "encode"
    )
    said = stub.ModelMetadata(oip.ModelMetadataRequest(name="tally.score.score"), timeout=PATIENCE)
    assert said.properties["role"] == "score"


def test_statistics_count_requests_rows_and_runs(stub: Stub) -> None:
    def of(name: str, version: str = "") -> list[oip.ModelStatistics]:
        request = oip.ModelStatisticsRequest(name=name, version=version)
        return list(stub.ModelStatistics(request, timeout=PATIENCE).model_stats)

    (before,) = of("tally.encode", "1")
    began = time.time()
    for rows in (3, 150):
        stub.ModelInfer(ask("tally", version="1", image=some_images(rows, (4, 3, 1))), timeout=PATIENCE)
    (after,) = of("tally", "1")
    assert (after.name, after.version) == ("tally", "1")
    assert after.inference_count - before.inference_count == 153
    # 3, and 150 in runs of 64 at most: of so many as make each row cheap on this machine.
    assert after.execution_count - before.execution_count >= 1 + 3
    assert began - 1 < after.last_inference / 1000 < time.time() + 1
    sums = after.inference_stats
    stages = (sums.queue, sums.compute_input, sums.compute_infer, sums.compute_output)
    assert {stage.count for stage in stages} == {sums.success.count}
    assert sums.success.count - before.inference_stats.success.count == 2
    assert sum(stage.ns for stage in stages) == pytest.approx(sums.success.ns, abs=10)
    assert all(stage.ns > 0 for stage in stages)
    sizes = {batch.batch_size: batch for batch in after.batch_stats}
    assert 3 in sizes
    assert max(sizes) <= 64
    assert sum(size * batch.compute_infer.count for size, batch in sizes.items()) == after.inference_count
    assert sum(batch.compute_infer.count for batch in after.batch_stats) == after.execution_count
    assert all(batch.compute_infer.ns > 0 for batch in after.batch_stats)
    assert [s.version for s in of("tally.encode")] == ["1", "3"]
    every = {(s.name, s.version) for s in of("")}
    assert {("tally.encode", "1"), ("tally.sample", "3"), ("vae.decode", "1"), ("tally.score.score", "1")} <= every
    assert not any(name.startswith("wrong") for name, _ in every)


def test_painted_rows_are_runs_too(stub: Stub) -> None:
    def now() -> oip.ModelStatistics:
        request = oip.ModelStatisticsRequest(name="tally.sample", version="3")
        (stats,) = stub.ModelStatistics(request, timeout=PATIENCE).model_stats
        return stats

    # No other test has this one painted: what another was given up in the middle of may still be at work for a row.
    before = now()
    infer(stub, ask("tally.sample", version="3", index=np.arange(1)))
    after = now()
    assert after.inference_count - before.inference_count == 1
    assert after.execution_count - before.execution_count == toybundle.HEIGHT


def test_a_request_whose_run_fails_counts_as_failed(tmp_path: Path) -> None:
    toybundle.write(tmp_path, fragile=True)
    with ServerProcess(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        stub = Stub(channel)
        good = np.zeros((1, 4, 3, 1), np.uint8)
        infer(stub, ask("tally", image=good))
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="the run failed") as failure:
                stub.ModelInfer(ask("tally", image=good + np.uint8(255)), timeout=PATIENCE)
            assert failure.value.code() is grpc.StatusCode.INTERNAL
        (stats,) = stub.ModelStatistics(oip.ModelStatisticsRequest(name="tally"), timeout=PATIENCE).model_stats
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 2)
    assert stats.inference_stats.fail.ns > 0


@pytest.mark.parametrize(
    ("name", "version", "code", "words"),
    [
        (
            "nobody",
            "",
            grpc.StatusCode.NOT_FOUND,
            "no model 'nobody'; there are: labelled, shells, tally, tally.score, vae",
        ),
        ("nobody.encode", "", grpc.StatusCode.NOT_FOUND, "no model 'nobody.encode'"),
        ("tally.decode", "", grpc.StatusCode.NOT_FOUND, "is served as tally, tally.encode, tally.score, tally.sample"),
        ("tally", "2", grpc.StatusCode.NOT_FOUND, "no version 2; it has 1, 3"),
        ("wrong", "", grpc.StatusCode.UNAVAILABLE, "golden replay differs"),
        ("wrong.encode", "1", grpc.StatusCode.UNAVAILABLE, "golden replay differs"),
    ],
)
def test_who_does_not_answer_is_said(stub: Stub, name: str, version: str, code: grpc.StatusCode, words: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: stub.ModelInfer(oip.ModelInferRequest(model_name=name, model_version=version), timeout=PATIENCE),
        lambda: stub.ModelMetadata(oip.ModelMetadataRequest(name=name, version=version), timeout=PATIENCE),
        lambda: stub.ModelConfig(oip.ModelConfigRequest(name=name, version=version), timeout=PATIENCE),
        lambda: stub.ModelStatistics(oip.ModelStatisticsRequest(name=name, version=version), timeout=PATIENCE),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError, match=words) as failure:
            call()
        assert failure.value.code() is code


def test_calls_are_counted_named_and_found(server: ServerProcess, stub: Stub, channel: grpc.Channel) -> None:
    labels = {"grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer", "grpc_type": "unary"}
    before = server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(oip.ModelInferRequest(), timeout=PATIENCE, metadata=(("x-request-id", "my-id"),))
    assert server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels) == before + 1
    who = error_details_pb2.RequestInfo()
    assert any(detail.Unpack(who) for detail in rpc_status.from_call(failure.value).details)
    assert who.request_id == "my-id"
    name = "inference.GRPCInferenceService"
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = reflection.ServerReflectionInfo(iter([request]), timeout=PATIENCE)
    assert name in {service.name for service in reply.list_services_response.service}
