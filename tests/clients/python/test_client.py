"""The client against the real server with the made-up family `tally`: images 4×3×1, no decode, no features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import grpc
import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2, inference_service_pb2, model_service_pb2
from ancestral_client import Client, InvalidArgument, NotFound, RoleNotSupported, SampledImage, ServerFault, _wire
from fakeserver import FakeServer
from running import ServerProcess

IMAGES = np.random.default_rng(3).integers(0, 256, (5, 4, 3, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(toy_server: ServerProcess) -> Iterator[Client]:
    with Client(toy_server.address) as client:
        yield client


def test_models(client: Client) -> None:
    (model,) = client.models()
    assert (model.name, model.version, model.serving, model.device) == ("tally", 1, True, "cpu")
    assert model.image_shape == (4, 3, 1)
    assert model.levels == 4
    assert set(model.roles) == {"sample", "encode", "score"}
    assert model.limits is not None
    assert model.limits.max_sample_count > 0
    assert client.model("tally") == client.model("tally", 1) == model
    assert model.metric("bits_per_dim") is None


def test_samples_repeat(client: Client) -> None:
    samples = client.sample("tally", 6, seed=7)
    assert samples.images.shape == (6, 4, 3, 1)
    assert samples.images.dtype == np.uint8
    assert samples.seed == 7
    assert samples.log_likelihood is not None
    assert samples.log_likelihood.shape == (6,)
    assert samples.info.model == "tally"
    assert samples.info.version == 1
    assert len(samples.info.request_id) == 32
    assert 0 < samples.info.compute_seconds <= samples.info.total_seconds
    assert 1 <= samples.info.batch_size <= 6
    tail = client.sample("tally", 2, seed=7, first_index=4)
    assert np.array_equal(tail.images, samples.images[4:])
    assert tail.first_index == 4


def test_a_seed_is_drawn_and_told(client: Client) -> None:
    first, second = client.sample("tally", 4), client.sample("tally", 4)
    assert first.seed != second.seed
    assert np.array_equal(client.sample("tally", 4, seed=first.seed).images, first.images)


KNOWN = np.random.default_rng(5).random((4, 3)) < 0.5


def test_completions_keep_what_is_known(client: Client) -> None:
    """One image and one mask for all, with whatever axes; and the free pixels are those of the same seed."""
    free = client.sample("tally", 8, seed=7)
    completions = client.sample("tally", 8, seed=7, given=IMAGES[0], known=KNOWN)
    assert completions.images.shape == (8, 4, 3, 1)
    assert (completions.images[:, KNOWN] == IMAGES[0][KNOWN]).all()
    assert set(np.unique(completions.images[:, ~KNOWN])) == {0, 255}
    assert completions.log_likelihood is not None
    assert not np.array_equal(completions.images, free.images)
    for given, known in ((IMAGES[:1], KNOWN[..., np.newaxis]), (IMAGES[0, ..., 0], KNOWN[np.newaxis])):
        again = client.sample("tally", 8, seed=7, given=given, known=known)
        assert np.array_equal(again.images, completions.images)
    with client.sample_stream("tally", 8, seed=7, given=IMAGES[0], known=KNOWN) as events:
        for event in events:
            assert isinstance(event, SampledImage)
            assert np.array_equal(event.image, completions.images[event.index])


def test_each_sample_may_have_an_image_and_a_mask_of_its_own(client: Client) -> None:
    known = np.random.default_rng(6).random(IMAGES.shape) < 0.5
    completions = client.sample("tally", 5, given=IMAGES, known=known)
    assert (completions.images[known] == IMAGES[known]).all()
    for mask in (np.ones((4, 3), bool), np.zeros((4, 3), bool)):
        both = client.sample("tally", 5, seed=7, given=IMAGES, known=mask)
        expected = IMAGES if mask.all() else client.sample("tally", 5, seed=7).images
        assert np.array_equal(both.images, expected)


@pytest.mark.parametrize(
    ("given", "known", "said"),
    [
        (IMAGES[0], KNOWN.astype(np.uint8) * 255, "known: must be bool"),
        (IMAGES[0] / 255, KNOWN, "given: must be uint8"),
        (IMAGES[0, 1:], KNOWN, r"given: has shape \[3, 3, 1\]; tally takes"),
        (IMAGES[0], KNOWN.T, r"known: has shape \[3, 4\]; tally takes"),
        # What only the server says.
        (IMAGES[0], None, "known: is not set"),
        (None, KNOWN, "given: is not set"),
        (IMAGES[:2], KNOWN, r"given.shape: has N = 2, must be 1 or count = 3"),
    ],
)
def test_wrong_completions_name_the_field(client: Client, given: Any, known: Any, said: str) -> None:
    for call in (client.sample, lambda *a, **k: next(client.sample_stream(*a, **k))):
        with pytest.raises(InvalidArgument, match=said):
            call("tally", 3, given=given, known=known)


def test_labels_of_a_model_without_classes_are_the_servers_to_refuse(client: Client) -> None:
    assert client.model("tally").label_count == 0
    with pytest.raises(InvalidArgument, match="label: is 1, must be unset"):
        client.sample("tally", 1, label=1)
    for call in (client.score, client.features):
        with pytest.raises((InvalidArgument, RoleNotSupported)):
            call("tally", IMAGES, labels=[0, 1, 2, 3, 4])
    with pytest.raises(InvalidArgument, match="labels: must be whole numbers"):
        client.score("tally", IMAGES, labels=0.5)


def test_what_is_asked_for_is_what_is_sent(fake_server: FakeServer) -> None:
    requests = []

    def answer(request: bytes, context: object) -> bytes:
        if fake_server.calls[-1] != "GetModel":
            requests.append(request)
            return b""
        reply = model_service_pb2.GetModelResponse()
        reply.model.bundle.image.MergeFrom(bundle_pb2.ImageSpec(height=4, width=3, channels=3))
        reply.model.bundle.label_count = 10
        return reply.SerializeToString()

    fake_server.answer = answer
    image = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    with Client(fake_server.address) as client:
        assert client.model("m").label_count == 10
        for call in (
            lambda: client.sample("m", 2, label=0, given=image, known=KNOWN),
            lambda: client.score("m", image, labels=3),
            lambda: client.features("m", image, labels=[3]),
        ):
            with pytest.raises(KeyError):  # the replies are empty
                call()
    sample = inference_service_pb2.SampleRequest.FromString(requests[0])
    assert sample.HasField("label")
    assert sample.label == 0
    assert np.array_equal(_wire.unpack(sample.given), image[np.newaxis])
    known = _wire.unpack(sample.known)
    assert known.dtype == np.bool_
    assert np.array_equal(known, np.stack([KNOWN] * 3, axis=-1)[np.newaxis])
    assert list(inference_service_pb2.ScoreRequest.FromString(requests[1]).labels) == [3]
    assert list(inference_service_pb2.ExtractFeaturesRequest.FromString(requests[2]).labels) == [3]


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., 0], IMAGES.tolist()], ids=["NHWC", "NHW", "a list"])
def test_encode_takes_batches(client: Client, images: object) -> None:
    encoding = client.encode("tally", np.asarray(images, np.uint8))
    assert np.allclose(encoding.mean, toybundle.encode(IMAGES), atol=1e-5)
    assert encoding.log_variance is None
    assert encoding.latent is None


@pytest.mark.parametrize("image", [IMAGES[0], IMAGES[0, ..., 0]], ids=["HWC", "HW"])
def test_encode_takes_one_image(client: Client, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert np.allclose(client.encode("tally", image).mean, toybundle.encode(IMAGES[:1]), atol=1e-5)


def test_score(client: Client) -> None:
    scores = client.score("tally", IMAGES)
    assert scores.exact
    expected = -toybundle.encode(IMAGES)[:, 0]
    assert np.allclose(scores.log_likelihood, expected, atol=1e-4)
    assert np.allclose(scores.bits_per_dim, -expected / (12 * math.log(2)), atol=1e-4)


def test_images_of_another_shape_are_refused_before_they_are_sent(client: Client, toy_server: ServerProcess) -> None:
    before = toy_server.metric("grpc_server_started_total", grpc_method="Encode")
    with pytest.raises(InvalidArgument, match=r"has shape \[2, 8, 8\]; tally takes \[N,4,3,1\]"):
        client.encode("tally", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(InvalidArgument, match="must be uint8"):
        client.encode("tally", np.zeros((2, 4, 3, 1)))
    assert toy_server.metric("grpc_server_started_total", grpc_method="Encode") == before


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"n": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"first_index": -1}, "first_index"),
        ({"label": -1}, "label"),
        ({"version": -1}, "version"),
    ],
)
def test_wrong_numbers_are_refused_before_they_are_sent(client: Client, values: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.sample("tally", **{"n": 1, **values})
    assert caught.value.violations[0].field == field


def test_what_only_the_server_knows_comes_back_as_the_same_error(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.sample("tally", 2**30)
    assert caught.value.violations[0].field == "count"
    assert caught.value.request_id
    with pytest.raises(InvalidArgument) as caught:
        client.sample("tally", 1, temperature=math.nan)
    assert caught.value.violations[0].field == "temperature"


def test_an_unknown_model_names_those_there_are(client: Client) -> None:
    for call in (lambda: client.sample("talli", 1), lambda: client.encode("talli", IMAGES)):
        with pytest.raises(NotFound, match="tally"):
            call()
    with pytest.raises(NotFound):
        client.model("tally", 9)


def test_a_role_that_the_model_lacks(client: Client) -> None:
    with pytest.raises(RoleNotSupported, match="tally"):
        client.decode("tally", np.zeros((1, 2)))
    with pytest.raises(RoleNotSupported):
        client.features("tally", IMAGES)


@pytest.mark.parametrize(("priority", "sent"), [("interactive", 1), ("batch", 2)])
def test_the_priority_of_a_client_is_that_of_its_calls(
    fake_server: FakeServer, priority: Literal["interactive", "batch"], sent: int
) -> None:
    found: list[int] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        found.append(inference_service_pb2.DecodeRequest.FromString(request).priority)
        return inference_service_pb2.DecodeResponse(images=_wire.pack(IMAGES)).SerializeToString()

    fake_server.answer = answer
    with Client(fake_server.address, priority=priority) as client:
        client.decode("tally", [0.0, 1.0])
    assert found == [sent]


@pytest.mark.parametrize(("options", "sent"), [({}, 2), ({"bulk_priority": "interactive"}, 1)])
def test_streams_of_messages_are_bulk_unless_it_is_said_otherwise(
    fake_server: FakeServer, options: dict[str, Any], sent: int
) -> None:
    found: list[int] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if fake_server.calls[-1] == "EncodeStream":
            found.append(inference_service_pb2.EncodeStreamRequest.FromString(request).encode.priority)
            context.abort(grpc.StatusCode.INTERNAL, "enough")
        model = model_service_pb2.GetModelResponse()
        model.model.bundle.image.MergeFrom(bundle_pb2.ImageSpec(height=4, width=3, channels=1))
        return model.SerializeToString()

    fake_server.answer = answer
    with Client(fake_server.address, **options) as client, pytest.raises(ServerFault):
        next(client.encode_stream("tally", IMAGES))
    assert found == [sent]


def test_an_unknown_priority_is_refused(fake_server: FakeServer) -> None:
    with pytest.raises(InvalidArgument, match="priority: is 'low'; must be one of 'interactive', 'batch'"):
        Client(fake_server.address, priority=cast(Any, "low"))


def test_the_shape_is_asked_for_once_and_again_when_it_may_have_changed(fake_server: FakeServer) -> None:
    """A newer version of a model may take other images: a misfit asks again before it is an error."""
    size = 4

    def answer(request: bytes, context: object) -> bytes:
        if fake_server.calls[-1] != "GetModel":
            return inference_service_pb2.ScoreResponse(
                log_likelihood=_wire.pack(np.zeros(1, np.float32)), bits_per_dim=_wire.pack(np.zeros(1, np.float32))
            ).SerializeToString()
        reply = model_service_pb2.GetModelResponse()
        image = reply.model.bundle.image
        image.height = image.width = size
        image.channels = 1
        return reply.SerializeToString()

    fake_server.answer = answer
    with Client(fake_server.address) as client:
        client.score("m", np.zeros((4, 4), np.uint8))
        client.score("m", np.zeros((4, 4), np.uint8))
        assert fake_server.calls == ["GetModel", "Score", "Score"]
        size = 6
        client.score("m", np.zeros((6, 6), np.uint8))
        assert fake_server.calls[3:] == ["GetModel", "Score"]
        with pytest.raises(InvalidArgument):
            client.score("m", np.zeros((4, 4), np.uint8))


def test_one_client_serves_many_threads(client: Client) -> None:
    images = np.random.default_rng(4).integers(0, 256, (64, 4, 3, 1), dtype=np.uint8)
    with ThreadPoolExecutor(16) as pool:
        means = list(pool.map(lambda image: client.encode("tally", image).mean[0], images))
    assert np.allclose(means, toybundle.encode(images), atol=1e-5)
