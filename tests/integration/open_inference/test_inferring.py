"""ModelInfer gives the same bytes as the native service."""

from __future__ import annotations

import numpy as np
import pytest

import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from openinference import SHAPE, Native, Stub, ask, infer, some_images, with_parameters
from waiting import PATIENCE
from wire import tensor


@pytest.mark.parametrize("typed", [False, True])
def test_encode_gives_the_bytes_of_the_native_service(stub: Stub, native: Native, typed: bool) -> None:
    # More than a batch, so that the request is split and joined.
    images = some_images(150)
    wanted = native.Encode(pb.EncodeRequest(model="vae", images=tensor(images), draw_seed=7), timeout=PATIENCE)
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
    zero = native.Encode(pb.EncodeRequest(model="vae", images=tensor(images), draw_seed=0), timeout=PATIENCE)
    assert named["latent"].tobytes() == zero.latent.data != wanted.latent.data


def test_each_of_many_alike_gets_its_own_answer_and_id(stub: Stub, native: Native) -> None:
    for i in range(6):
        images = some_images(1, seed=i)
        reply = stub.ModelInfer(ask("vae.encode", id=f"call {i}", image=images), timeout=PATIENCE)
        wanted = native.Encode(pb.EncodeRequest(model="vae", images=tensor(images)), timeout=PATIENCE)
        assert list(reply.raw_output_contents) == [wanted.mean.data, wanted.log_variance.data]
        assert [list(output.shape) for output in reply.outputs] == [wanted.mean.shape, wanted.log_variance.shape]
        assert (reply.id, reply.model_name, reply.model_version) == (f"call {i}", "vae.encode", "1")


@pytest.mark.parametrize("typed", [False, True])
def test_score_features_and_decode_give_the_bytes_of_the_native_service(
    stub: Stub, native: Native, typed: bool
) -> None:
    images, labels = some_images(70), np.arange(70) % 3
    score = native.Score(pb.ScoreRequest(model="vae", images=tensor(images), seed=5), timeout=PATIENCE)
    got = infer(stub, with_parameters(ask("vae.score", typed=typed, image=images), seed=5))
    assert got["log_likelihood"].tobytes() == score.log_likelihood.data
    request = pb.ScoreRequest(model="labelled", images=tensor(images), labels=labels.tolist())
    score = native.Score(request, timeout=PATIENCE)
    for shape in ((70,), (70, 1)):
        asked = ask("labelled.score", typed=typed, image=images, label=labels.reshape(shape))
        assert infer(stub, asked)["log_likelihood"].tobytes() == score.log_likelihood.data
    features = native.ExtractFeatures(
        pb.ExtractFeaturesRequest(model="labelled", images=tensor(images), labels=[1], include_map=True),
        timeout=PATIENCE,
    )
    asked = ask("labelled.features", typed=typed, label=np.ones(70, np.int64), image=images)
    got = infer(stub, asked)
    assert got["features"].tobytes() == features.features.data
    assert got["feature_map"].tobytes() == features.feature_map.data
    latents = np.random.default_rng(5).normal(size=(70, 4)).astype(np.float32)
    decoded = native.Decode(pb.DecodeRequest(model="vae", latents=tensor(latents)), timeout=PATIENCE)
    assert infer(stub, ask("vae.decode", typed=typed, latent=latents))["image"].tobytes() == decoded.images.data


@pytest.mark.parametrize(("model", "label"), [("labelled", 2), ("vae", None)])
def test_samples_are_those_of_the_native_service_whatever_their_order(
    stub: Stub, native: Native, model: str, label: int | None
) -> None:
    request = pb.SampleRequest(model=model, count=90, seed=11, first_index=40, temperature=0.5, label=label)
    wanted = native.Sample(request, timeout=PATIENCE)
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


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
def test_completions_are_those_of_the_native_service(stub: Stub, native: Native, rows: int, typed: bool) -> None:
    given, known = some_images(rows), np.zeros((rows, *SHAPE), np.bool_)
    known[:, :4] = True
    known[0, 5, 2] = True
    request = pb.SampleRequest(
        model="labelled", count=5, seed=3, first_index=9, label=1, given=tensor(given), known=tensor(known)
    )
    wanted = native.Sample(request, timeout=PATIENCE)
    # Whatever comes first.
    asked = ask("labelled.sample", typed=typed, known=known, index=np.arange(9, 14), given=given)
    got = infer(stub, with_parameters(asked, seed=3, label=1))
    assert got["image"].tobytes() == wanted.images.data
    assert got["log_likelihood"].tobytes() == wanted.log_likelihood.data
    kept = np.broadcast_to(known, (5, *SHAPE))
    assert np.array_equal(got["image"][kept], np.broadcast_to(given, (5, *SHAPE))[kept])
    # As a load generator does that sends zeros for every input: nothing is known, and nothing changes.
    nothing = ask("labelled.sample", index=np.arange(9, 14), given=given, known=np.zeros_like(known))
    free = infer(stub, with_parameters(nothing, seed=3, label=1))
    plain = infer(stub, with_parameters(ask("labelled.sample", index=np.arange(9, 14)), seed=3, label=1))
    assert np.array_equal(free["image"], plain["image"])


def test_a_seed_that_nobody_gave_is_drawn_and_returned(stub: Stub) -> None:
    request = ask("tally.sample", index=np.arange(30))
    first, second = (stub.ModelInfer(request, timeout=PATIENCE) for _ in range(2))
    assert first.parameters["seed"].int64_param != second.parameters["seed"].int64_param
    again = with_parameters(request, seed=first.parameters["seed"].int64_param)
    assert stub.ModelInfer(again, timeout=PATIENCE).raw_output_contents == first.raw_output_contents


def test_what_clients_send_unasked_is_ignored(stub: Stub) -> None:
    images = some_images(3, (4, 3, 1))
    request = ask("tally", outputs=("code",), image=images)
    request.parameters["priority"].uint64_param = 2  # as Triton's client does
    request.inputs[0].parameters["binary_data_size"].int64_param = 36
    request.outputs[0].parameters["binary_data"].bool_param = True
    with_parameters(request, sequence_id=4, sequence_start=True, triton_enable_empty_final_response=True, timeout=0)
    np.testing.assert_allclose(infer(stub, request)["code"], toybundle.encode(images), rtol=1e-5)
