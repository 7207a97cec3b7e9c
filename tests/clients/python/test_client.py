"""The client against the real server with the made-up family `tally`: images 4×3×1, no decode, no features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import toybundle
from ancestral.v1 import inference_service_pb2, model_service_pb2
from ancestral_client import Client, InvalidArgument, NotFound, RoleNotSupported, _wire
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
    tail = client.sample("tally", 2, seed=7, first_index=4)
    assert np.array_equal(tail.images, samples.images[4:])
    assert tail.first_index == 4


def test_a_seed_is_drawn_and_told(client: Client) -> None:
    first, second = client.sample("tally", 4), client.sample("tally", 4)
    assert first.seed != second.seed
    assert np.array_equal(client.sample("tally", 4, seed=first.seed).images, first.images)


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
    [({"n": 0}, "count"), ({"seed": -1}, "seed"), ({"first_index": -1}, "first_index"), ({"version": -1}, "version")],
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
