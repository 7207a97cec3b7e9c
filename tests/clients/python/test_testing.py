"""The fake server that users test with: the real client over it does what it does over a channel."""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest

import ancestral_client as ac
from ancestral_client import AsyncClient, Client, errors
from ancestral_client.testing import FakeServer, ToyModel
from ancestral_client.testing.status import status_of
from running import ServerProcess

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with server.client() as client:
        yield client


def test_every_role_is_answered_the_same_each_time(client: Client) -> None:
    for _ in range(2):
        samples = client.sample("toy-pixelcnn", 4, seed=7)
        assert samples.images.shape == (4, 8, 8, 1)
        assert set(np.unique(samples.images)) <= {round(255 * k / 16) for k in range(17)}
        again = FakeServer().client().sample("toy-pixelcnn", 2, seed=7, first_index=2)
        assert np.array_equal(again.images, samples.images[2:])
        scores = client.score("toy-pixelcnn", samples.images)
        assert samples.log_likelihood is not None
        assert np.allclose(scores.log_likelihood, samples.log_likelihood, atol=1e-3)
        assert scores.exact
    posterior = client.encode("toy-vae", IMAGES, draw_seed=3)
    assert posterior.latent is not None
    assert posterior.mean.shape == posterior.latent.shape == (70, 4)
    again_mean = client.encode("toy-vae", client.decode("toy-vae", posterior.mean).images).mean
    assert np.allclose(again_mean, posterior.mean, atol=0.02), "decoding is the inverse, but for rounding"
    one, many = (client.score("toy-vae", IMAGES[:8], draws=draws).log_likelihood.mean() for draws in (1, 500))
    assert one < many
    classes = client.classify("toy-classifier", IMAGES[:5])
    assert np.allclose(classes.probabilities.sum(axis=1), 1)
    assert classes.names == [str(label) for label in classes.labels]
    hidden = client.features("toy-conditional", IMAGES[:2], labels=[0, 2], include_map=True)
    assert hidden.features.shape == (2, 16)
    assert hidden.feature_map is not None
    known = np.zeros((8, 8), bool)
    known[:4] = True
    halves = client.complete("toy-pixelcnn", IMAGES[0], known, 3, seed=1)
    assert (halves.images[:, :4] == IMAGES[0, :4]).all()
    assert client.interpolate("toy-vae", IMAGES[0], IMAGES[1], steps=5).images.shape == (5, 8, 8, 1)
    assert client.manifold("toy-vae", steps=3).images.shape == (9, 8, 8, 1)
    first, second = (client.sample("toy-conditional", 2, seed=1, label=label).images for label in (0, 1))
    assert not np.array_equal(first, second)


def test_streams_and_both_clients_say_the_same(server: FakeServer, client: Client) -> None:
    samples = client.sample("toy-pixelcnn", 5, seed=7)
    with client.sample_stream("toy-pixelcnn", 5, seed=7, progress=True) as events:
        seen = list(events)
    rows = [event for event in seen if isinstance(event, ac.PaintedRow)]
    images = [event for event in seen if isinstance(event, ac.SampledImage)]
    assert len(rows) == 5 * 8
    assert np.array_equal(np.stack([event.image for event in images]), samples.images)
    means = client.encode("toy-vae", IMAGES).mean
    parts = list(client.encode_stream("toy-vae", iter([IMAGES[:30], IMAGES[30:]])))
    assert np.array_equal(np.concatenate([part.mean for part in parts]), means)

    async def ask() -> Any:
        async with server.async_client() as other:
            assert isinstance(other, AsyncClient)
            drawn, scores = await asyncio.gather(
                other.sample("toy-pixelcnn", 5, seed=7), other.score("toy-vae", IMAGES)
            )
            found = [part.mean async for part in other.encode_stream("toy-vae", IMAGES)]
            return drawn, scores, np.concatenate(found)

    drawn, scores, streamed = asyncio.run(ask())
    assert np.array_equal(drawn.images, samples.images)
    assert np.array_equal(scores.log_likelihood, client.score("toy-vae", IMAGES).log_likelihood)
    assert np.array_equal(streamed, means)


CALLS: dict[str, Callable[[Client, str], Any]] = {
    "no such model": lambda client, model: client.encode("talli", IMAGES[:1]),
    "no such version": lambda client, model: client.sample(model, 1, version=9),
    "no such role": lambda client, model: client.decode(model, np.zeros((1, 2))),
    "too many": lambda client, model: client.sample(model, 100_000),
    "none": lambda client, model: client.sample(model, 0),
    "too hot": lambda client, model: client.sample(model, 1, temperature=1e6),
    "a label": lambda client, model: client.sample(model, 1, label=1),
    "draws": lambda client, model: client.score(model, np.zeros(client.model(model).image_shape, np.uint8), draws=7),
    "a mask alone": lambda client, model: client.sample(model, 1, known=np.ones((4, 3), bool)),
    "a wrong size": lambda client, model: client.encode(model, np.zeros((2, 9, 9), np.uint8)),
    "of a stream": lambda client, model: next(client.sample_stream(model, 100_000)),
    "of an image": lambda client, model: next(client.encode_stream(model, IMAGES[:1])),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_server_refuses_the_fake_refuses_with_the_same_error(toy_server: ServerProcess, call: str) -> None:
    found = []
    tally = ToyModel("tally", image_shape=(4, 3, 1), levels=4, latent_size=2, roles=("sample", "encode", "score"))
    for client in (Client(toy_server.address), FakeServer(tally).client()):
        with client, pytest.raises(ac.AncestralError) as caught:
            CALLS[call](client, "tally")
        violations = [violation.field for violation in getattr(caught.value, "violations", ())]
        found.append((type(caught.value), caught.value.reason, violations))
    assert found[0] == found[1]


def raised(kind: type[ac.AncestralError]) -> ac.AncestralError:
    return ac.Overloaded("busy", retry_after=2.0) if kind is ac.Overloaded else kind("made up")


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, ac.AncestralError)],
)
def test_every_error_can_be_provoked(server: FakeServer, kind: type[ac.AncestralError]) -> None:
    if kind is ac.AncestralError:
        kind = ac.ServerFault
    server.fail(raised(kind), times=None)
    with server.client(timeout=60) as client, pytest.raises(kind) as caught:
        client.models()
    assert type(caught.value) is kind
    server.fail(raised(kind), call="encode_stream", message=1)
    server.heal()
    assert status_of(raised(kind), "id").message


def test_attempts_pauses_and_deadlines_pass_at_once(server: FakeServer) -> None:
    began = time.process_time()
    with server.client(timeout=100) as client:
        server.fail(ac.Overloaded("busy", retry_after=5.0), call="encode", times=3)
        assert client.encode("toy-vae", IMAGES[0]).mean.shape == (1, 4)
        assert [asked.call for asked in server.calls] == ["model", *["encode"] * 4]
        assert len({asked.request_id for asked in server.calls[1:]}) == 1
        assert 15 <= server.now < 30
        server.stop()
        with pytest.raises(ac.Unavailable, match="nothing listens"):
            client.models()
        assert server.now < 100
        server.heal()
        server.seconds = 3.0
        with pytest.raises(ac.DeadlineExceeded, match="no answer from localhost:8500 within 2 s"):
            client.models(timeout=2)
        assert client.models(timeout=4)
    assert time.process_time() - began < 60, "nobody waits by the clock on the wall"


def test_streams_go_on_where_they_broke(server: FakeServer, client: Client) -> None:
    whole = client.sample("toy-pixelcnn", 9, seed=7).images
    server.fail(ac.Unavailable("gone"), call="sample_stream", after=4)
    events = [event for event in client.sample_stream("toy-pixelcnn", 9, seed=7) if isinstance(event, ac.SampledImage)]
    assert np.array_equal(np.stack([event.image for event in events]), whole)
    assert [asked.call for asked in server.calls].count("sample_stream") == 2
    server.fail(ac.Unavailable("gone"), call="encode_stream", after=2, times=2)
    means = [part.mean for part in client.encode_stream("toy-vae", IMAGES, message_size=10)]
    assert np.array_equal(np.concatenate(means), client.encode("toy-vae", IMAGES).mean)
    server.fail(ac.ServerFault("a run failed"), call="encode_stream", message=1)
    stream, outcomes = client.encode_stream("toy-vae", IMAGES, message_size=30), list[Any]()
    for _ in range(3):
        try:
            outcomes.append(len(next(stream).mean))
        except ac.ServerFault as error:
            outcomes.append(error.index)
    assert outcomes == [30, 1, 10]


def test_models_come_and_go(server: FakeServer, client: Client) -> None:
    assert [model.name for model in client.models()] == ["toy-classifier", "toy-conditional", "toy-pixelcnn", "toy-vae"]
    client.unload("toy-vae")
    with pytest.raises(ac.Unavailable, match="does not serve"):
        client.encode("toy-vae", IMAGES, timeout=5)
    assert client.load("toy-vae").serving
    server.add(ToyModel("toy-vae", 2, image_shape=(28, 28, 3), latent_size=9))
    assert client.model("toy-vae").image_shape == (28, 28, 3)
    assert client.encode("toy-vae", np.zeros((28, 28, 3), np.uint8)).mean.shape == (1, 9)
    assert copy.deepcopy(client).model("toy-vae").version == 2
    small = FakeServer(max_images=16, max_message_bytes=5_000)
    with small.client() as other:
        assert other.encode("toy-vae", IMAGES).mean.shape == (70, 4)
        assert [asked.call for asked in small.calls] == ["model", "encode_stream"]
        with pytest.raises(ac.InvalidArgument, match="count"):
            other.sample("toy-pixelcnn", 500)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ToyModel(roles=("paint",)), "roles: is"),
        (lambda: ToyModel(levels=1), "levels: is 1; must be 2 to 256"),
        (lambda: ToyModel(image_shape=cast(Any, (8, 8))), "image_shape: is"),
        (lambda: ToyModel(latent_size=65), "latent_size: is 65; must be 1 to 64"),
        (lambda: FakeServer().fail(ac.ServerFault("x"), call="paint"), "call: is 'paint'; must be one of sample, "),
    ],
)
def test_wrong_settings_of_the_fake_are_told(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_fake_client_may_stand_in_for_the_class(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ac, "Client", server.client)
    with ac.Client("replicas:8500", timeout=5, priority="batch") as client:
        assert (client.address, client.timeout) == ("replicas:8500", 5)
        assert client.models()
