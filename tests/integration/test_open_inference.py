"""The Open Inference Protocol through the real server: every method, and the same bytes as the native service gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, tensor_pb2
from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.vae import VAE
from inference import model_config_pb2
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from pixelcnns import exported, sharp_pixelcnn
from running import ServerProcess

Array = np.ndarray[Any, Any]
Stub = oip_grpc.GRPCInferenceServiceStub
Native = inference_service_pb2_grpc.InferenceServiceStub

RANDOM = np.random.default_rng(3)
SHAPE = (8, 8, 1)
DATATYPES = {"UINT8": np.uint8, "BOOL": np.bool_, "INT64": np.int64, "FP32": np.float32}
NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
CONTENTS = {"UINT8": "uint_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    toybundle.write(models)
    toybundle.write(models, version=3)
    # Its name is also that of a role of tally.
    toybundle.write(models, "tally.score")
    toybundle.write(models, "wrong", scale=254.0)
    exported(sharp_pixelcnn(ImageShape(*SHAPE, 17), label_count=3), models, "labelled")
    torch.manual_seed(0)
    vae = VAE(ImageShape(*SHAPE, 17), likelihood_name="categorical", latent_size=4, channels=4, features=8, blocks=0)
    write_bundle(vae.eval(), name="vae", models_dir=models, golden_images=some_images(4))
    with ServerProcess(models, "--max-images", "500", "--max-sample-count", "400") as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


@pytest.fixture(scope="module")
def native(channel: grpc.Channel) -> Native:
    return Native(channel)


def some_images(n: int, shape: tuple[int, ...] = SHAPE) -> Array:
    return RANDOM.integers(0, 256, (n, *shape), dtype=np.uint8)


def tensor(array: Array) -> tensor_pb2.Tensor:
    dtype = tensor_pb2.DATA_TYPE_UINT8 if array.dtype == np.uint8 else tensor_pb2.DATA_TYPE_FLOAT32
    return tensor_pb2.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def ask(
    model: str, *, typed: bool = False, outputs: tuple[str, ...] = (), version: str = "", id: str = "", **inputs: Array
) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, array in inputs.items():
        datatype = NAMES[array.dtype]
        added = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(added.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def with_parameters(request: oip.ModelInferRequest, **parameters: Any) -> oip.ModelInferRequest:
    """The request with parameters: an int as int64_param, a float as double_param, and so on."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return request


def infer(stub: Stub, request: oip.ModelInferRequest) -> dict[str, Array]:
    reply = stub.ModelInfer(request, timeout=60)
    assert len(reply.outputs) == len(reply.raw_output_contents)
    return {
        output.name: np.frombuffer(data, DATATYPES[output.datatype]).reshape(output.shape)
        for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def test_the_server_is_live_ready_and_says_what_it_is(stub: Stub) -> None:
    assert stub.ServerLive(oip.ServerLiveRequest(), timeout=10).live
    assert stub.ServerReady(oip.ServerReadyRequest(), timeout=10).ready
    said = stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=10)
    assert said.name == "ancestral"
    assert {"statistics", "model_configuration", "binary_tensor_data"} <= set(said.extensions)


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
    assert stub.ModelReady(oip.ModelReadyRequest(name=name, version=version), timeout=10).ready is ready


Tensors = list[tuple[str, str, list[int]]]


@pytest.mark.parametrize(
    ("name", "role", "inputs", "outputs"),
    [
        ("vae", "encode", [("image", "UINT8", [-1, 8, 8, 1])], ["mean", "log_variance", "latent"]),
        ("vae.decode", "decode", [("latent", "FP32", [-1, 4])], ["image"]),
        ("vae.sample", "sample", [("index", "INT64", [-1, 1])], ["image"]),
        ("labelled", "sample", [("index", "INT64", [-1, 1])], ["image", "log_likelihood"]),
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
    said = stub.ModelMetadata(oip.ModelMetadataRequest(name=name), timeout=10)
    assert (said.name, said.platform, list(said.versions)) == (name, "onnxruntime_onnx", ["1"])
    assert dict(said.properties) == {"role": role, "device": "cpu"}
    assert [(t.name, t.datatype, list(t.shape)) for t in said.inputs] == inputs
    assert [t.name for t in said.outputs] == outputs
    config = stub.ModelConfig(oip.ModelConfigRequest(name=name), timeout=10).config
    assert (config.name, config.platform, config.backend) == (name, "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == (400 if role == "sample" else 500)
    assert config.HasField("dynamic_batching")
    sides: tuple[tuple[Any, Any], ...] = ((said.inputs, config.input), (said.outputs, config.output))
    for told, configured in sides:
        names = [model_config_pb2.DataType.Name(c.data_type).removeprefix("TYPE_") for c in configured]
        assert [(t.name, t.datatype, list(t.shape)[1:]) for t in told] == [
            (c.name, datatype, list(c.dims)) for c, datatype in zip(configured, names, strict=True)
        ]


def test_versions_are_listed_and_the_highest_that_serves_answers(stub: Stub) -> None:
    assert list(stub.ModelMetadata(oip.ModelMetadataRequest(name="tally"), timeout=10).versions) == ["1", "3"]
    images = some_images(2, (4, 3, 1))
    replies = [stub.ModelInfer(ask("tally", version=v, id="mine", image=images), timeout=10) for v in ("", "1", "3")]
    assert [reply.model_version for reply in replies] == ["3", "1", "3"]
    assert {(reply.model_name, reply.id) for reply in replies} == {("tally", "mine")}


def test_a_whole_name_goes_before_a_role(stub: Stub) -> None:
    assert stub.ModelMetadata(oip.ModelMetadataRequest(name="tally.score"), timeout=10).properties["role"] == "encode"
    said = stub.ModelMetadata(oip.ModelMetadataRequest(name="tally.score.score"), timeout=10)
    assert said.properties["role"] == "score"


@pytest.mark.parametrize("typed", [False, True])
def test_encode_gives_the_bytes_of_the_native_service(stub: Stub, native: Native, typed: bool) -> None:
    # More than a batch, so that the request is split and joined.
    images = some_images(150)
    wanted = native.Encode(pb.EncodeRequest(model="vae", images=tensor(images), draw_seed=7), timeout=60)
    drawn = infer(stub, with_parameters(ask("vae", typed=typed, image=images), seed=7))
    assert list(drawn) == ["mean", "log_variance", "latent"]
    assert drawn["mean"].tobytes() == wanted.mean.data
    assert drawn["log_variance"].tobytes() == wanted.log_variance.data
    assert drawn["latent"].tobytes() == wanted.latent.data
    # Nobody asked for the draw.
    assert list(infer(stub, ask("vae.encode", typed=typed, image=images))) == ["mean", "log_variance"]
    # Named, it is drawn without a seed too, from seed 0; and outputs come in the order asked for.
    named = infer(stub, ask("vae.encode", typed=typed, outputs=("latent", "mean"), image=images))
    assert list(named) == ["latent", "mean"]
    zero = native.Encode(pb.EncodeRequest(model="vae", images=tensor(images), draw_seed=0), timeout=60)
    assert named["latent"].tobytes() == zero.latent.data != wanted.latent.data


@pytest.mark.parametrize("typed", [False, True])
def test_score_features_and_decode_give_the_bytes_of_the_native_service(
    stub: Stub, native: Native, typed: bool
) -> None:
    images, labels = some_images(70), np.arange(70) % 3
    score = native.Score(pb.ScoreRequest(model="vae", images=tensor(images), seed=5), timeout=60)
    got = infer(stub, with_parameters(ask("vae.score", typed=typed, image=images), seed=5))
    assert got["log_likelihood"].tobytes() == score.log_likelihood.data
    request = pb.ScoreRequest(model="labelled", images=tensor(images), labels=labels.tolist())
    score = native.Score(request, timeout=60)
    for shape in ((70,), (70, 1)):
        asked = ask("labelled.score", typed=typed, image=images, label=labels.reshape(shape))
        assert infer(stub, asked)["log_likelihood"].tobytes() == score.log_likelihood.data
    features = native.ExtractFeatures(
        pb.ExtractFeaturesRequest(model="labelled", images=tensor(images), labels=[1], include_map=True), timeout=60
    )
    asked = ask("labelled.features", typed=typed, label=np.ones(70, np.int64), image=images)
    got = infer(stub, asked)
    assert got["features"].tobytes() == features.features.data
    assert got["feature_map"].tobytes() == features.feature_map.data
    latents = RANDOM.normal(size=(70, 4)).astype(np.float32)
    decoded = native.Decode(pb.DecodeRequest(model="vae", latents=tensor(latents)), timeout=60)
    assert infer(stub, ask("vae.decode", typed=typed, latent=latents))["image"].tobytes() == decoded.images.data


@pytest.mark.parametrize(("model", "label"), [("labelled", 2), ("vae", None)])
def test_samples_are_those_of_the_native_service_whatever_their_order(
    stub: Stub, native: Native, model: str, label: int | None
) -> None:
    request = pb.SampleRequest(model=model, count=90, seed=11, first_index=40, temperature=0.5, label=label)
    wanted = native.Sample(request, timeout=60)
    images = np.frombuffer(wanted.images.data, np.uint8).reshape(90, *SHAPE)
    likelihood = np.frombuffer(wanted.log_likelihood.data, np.float32)
    parameters = {"seed": 11, "temperature": 0.5, **({} if label is None else {"label": label})}
    order = np.random.default_rng(0).permutation(90)[:75]
    # One of them twice.
    order = np.append(order, order[3])
    for index in (order + 40, (order + 40)[:, None]):
        got = infer(stub, with_parameters(ask(f"{model}.sample", index=index), **parameters))
        assert np.array_equal(got["image"], images[order])
        if len(likelihood):
            assert np.array_equal(got["log_likelihood"], likelihood[order])
    only = infer(stub, with_parameters(ask(f"{model}.sample", outputs=("image",), index=order[:1] + 40), **parameters))
    assert list(only) == ["image"]
    assert np.array_equal(only["image"], images[order[:1]])


def test_a_seed_that_nobody_gave_is_drawn_and_returned(stub: Stub) -> None:
    request = ask("tally.sample", index=np.arange(30))
    first, second = (stub.ModelInfer(request, timeout=30) for _ in range(2))
    assert first.parameters["seed"].int64_param != second.parameters["seed"].int64_param
    again = with_parameters(request, seed=first.parameters["seed"].int64_param)
    assert stub.ModelInfer(again, timeout=30).raw_output_contents == first.raw_output_contents


def test_what_clients_send_unasked_is_ignored(stub: Stub) -> None:
    images = some_images(3, (4, 3, 1))
    request = ask("tally", outputs=("code",), image=images)
    request.parameters["priority"].uint64_param = 2  # as Triton's client does
    request.inputs[0].parameters["binary_data_size"].int64_param = 36
    request.outputs[0].parameters["binary_data"].bool_param = True
    with_parameters(request, sequence_id=4, sequence_start=True, triton_enable_empty_final_response=True, timeout=0)
    np.testing.assert_allclose(infer(stub, request)["code"], toybundle.encode(images), rtol=1e-5)


def test_statistics_count_requests_rows_and_runs(stub: Stub) -> None:
    def of(name: str, version: str = "") -> list[oip.ModelStatistics]:
        request = oip.ModelStatisticsRequest(name=name, version=version)
        return list(stub.ModelStatistics(request, timeout=10).model_stats)

    (before,) = of("tally.encode", "1")
    began = time.time()
    for rows in (3, 150):
        stub.ModelInfer(ask("tally", version="1", image=some_images(rows, (4, 3, 1))), timeout=30)
    (after,) = of("tally", "1")
    assert (after.name, after.version) == ("tally", "1")
    assert after.inference_count - before.inference_count == 153
    # 3, and 64 + 64 + 22.
    assert after.execution_count - before.execution_count == 4
    assert abs(after.last_inference / 1000 - began) < 60
    sums = after.inference_stats
    stages = (sums.queue, sums.compute_input, sums.compute_infer, sums.compute_output)
    assert {stage.count for stage in stages} == {sums.success.count}
    assert sums.success.count - before.inference_stats.success.count == 2
    assert sum(stage.ns for stage in stages) == pytest.approx(sums.success.ns, abs=10)
    assert all(stage.ns > 0 for stage in stages)
    sizes = {batch.batch_size: batch for batch in after.batch_stats}
    assert {3, 22, 64} <= sizes.keys()
    assert sum(batch.compute_infer.count for batch in after.batch_stats) == after.execution_count
    assert all(batch.compute_infer.ns > 0 for batch in after.batch_stats)
    assert [s.version for s in of("tally.encode")] == ["1", "3"]
    every = {(s.name, s.version) for s in of("")}
    assert {("tally.encode", "1"), ("tally.sample", "3"), ("vae.decode", "1"), ("tally.score.score", "1")} <= every
    assert not any(name.startswith("wrong") for name, _ in every)


def test_painted_rows_are_runs_too(stub: Stub) -> None:
    def now() -> oip.ModelStatistics:
        (stats,) = stub.ModelStatistics(oip.ModelStatisticsRequest(name="labelled.sample"), timeout=10).model_stats
        return stats

    before = now()
    infer(stub, with_parameters(ask("labelled", index=np.arange(1)), label=0))
    after = now()
    assert after.inference_count - before.inference_count == 1
    assert after.execution_count - before.execution_count == SHAPE[0]


def test_an_expired_request_counts_as_failed(stub: Stub) -> None:
    def failed() -> int:
        (stats,) = stub.ModelStatistics(oip.ModelStatisticsRequest(name="labelled"), timeout=10).model_stats
        return int(stats.inference_stats.fail.count)

    before = failed()
    # The server's own estimate may refuse it before it is admitted; until one was admitted, try with more time.
    for milliseconds in range(1, 400):
        request = with_parameters(ask("labelled", index=np.arange(400)), label=0, timeout=milliseconds * 1000)
        try:
            stub.ModelInfer(request, timeout=60)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - only some of them fail
        if failed() > before:
            return
    raise AssertionError("no request expired after its admission")


def violation(error: grpc.RpcError) -> error_details_pb2.BadRequest.FieldViolation:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0]


def good() -> oip.ModelInferRequest:
    return ask("labelled.score", image=some_images(2), label=np.array([0, 1]))


def typed() -> oip.ModelInferRequest:
    return ask("labelled.score", typed=True, image=some_images(2), label=np.array([0, 1]))


def samples(**parameters: Any) -> oip.ModelInferRequest:
    return with_parameters(ask("labelled", index=np.arange(2)), **{"label": 1, **parameters})


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
    (samples(temprature=1.0), "parameters[temprature]", "is unknown; there are label, priority, seed, temperature"),
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
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request_, timeout=30)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failure.value.details()
    said = violation(failure.value)
    assert said.field == field
    assert words in said.description


def test_what_the_bad_requests_were_made_of_is_good(stub: Stub) -> None:
    for request in (good(), typed(), samples(), samples(seed=3, temperature=1, timeout=60_000_000, priority=2)):
        assert infer(stub, request)


@pytest.mark.parametrize(
    ("name", "version", "code", "words"),
    [
        ("nobody", "", grpc.StatusCode.NOT_FOUND, "no model 'nobody'; there are: labelled, tally, tally.score, vae"),
        ("nobody.encode", "", grpc.StatusCode.NOT_FOUND, "no model 'nobody.encode'"),
        ("tally.decode", "", grpc.StatusCode.NOT_FOUND, "is served as tally, tally.encode, tally.score, tally.sample"),
        ("tally", "2", grpc.StatusCode.NOT_FOUND, "no version 2; it has 1, 3"),
        ("wrong", "", grpc.StatusCode.UNAVAILABLE, "golden replay differs"),
        ("wrong.encode", "1", grpc.StatusCode.UNAVAILABLE, "golden replay differs"),
    ],
)
def test_who_does_not_answer_is_said(stub: Stub, name: str, version: str, code: grpc.StatusCode, words: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: stub.ModelInfer(oip.ModelInferRequest(model_name=name, model_version=version), timeout=10),
        lambda: stub.ModelMetadata(oip.ModelMetadataRequest(name=name, version=version), timeout=10),
        lambda: stub.ModelConfig(oip.ModelConfigRequest(name=name, version=version), timeout=10),
        lambda: stub.ModelStatistics(oip.ModelStatisticsRequest(name=name, version=version), timeout=10),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError, match=words) as failure:
            call()
        assert failure.value.code() is code


def test_a_version_without_a_name_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelStatistics(oip.ModelStatisticsRequest(version="1"), timeout=10)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(failure.value).field == "version"


def test_a_reply_that_would_be_too_large_is_refused_with_what_fits(toy_models: Path) -> None:
    flags = ("--max-message-mib", "1", "--max-sample-count", "100000", "--max-queued-images", "100000")
    with ServerProcess(toy_models, *flags) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError, match="at most ") as failure:
            Stub(channel).ModelInfer(ask("tally.sample", index=np.arange(100_000)), timeout=30)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert violation(failure.value).field == "inputs[0].shape"
        most = int((failure.value.details() or "").rsplit("at most ", 1)[1])
        reply = infer(Stub(channel), ask("tally.sample", index=np.arange(most)))
        assert reply["image"].shape == (most, 4, 3, 1)


def test_a_timeout_ends_a_request_before_its_deadline(stub: Stub) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(samples(timeout=1), timeout=60)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 30


def test_calls_are_counted_named_and_found(server: ServerProcess, stub: Stub, channel: grpc.Channel) -> None:
    labels = {"grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer", "grpc_type": "unary"}
    before = server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(oip.ModelInferRequest(), timeout=10, metadata=(("x-request-id", "my-id"),))
    assert server.metric("grpc_server_handled_total", grpc_code="InvalidArgument", **labels) == before + 1
    who = error_details_pb2.RequestInfo()
    assert any(detail.Unpack(who) for detail in rpc_status.from_call(failure.value).details)
    assert who.request_id == "my-id"
    name = "inference.GRPCInferenceService"
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
    assert name in {service.name for service in reply.list_services_response.service}
