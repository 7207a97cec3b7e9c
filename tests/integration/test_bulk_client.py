"""The client's bulk calls, encode_stream and score_stream, through the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ancestral_client import Client, InvalidArgument, MessageTooLarge, NotFound, RoleNotSupported
from running import ServerProcess
from waiting import PATIENCE, until
from wire import Array, toy_images


@pytest.fixture(scope="module")
def client(toy_server: ServerProcess) -> Iterator[Client]:
    with Client(toy_server.address, timeout=PATIENCE) as client:
        yield client


def test_the_parts_of_an_array_are_what_one_call_gives(client: Client) -> None:
    images = toy_images(1000)
    parts = list(client.encode_stream("tally", images))
    assert [len(part.mean) for part in parts] == [64] * 15 + [40]
    assert np.array_equal(next(client.encode_stream("tally", images / 255, scale=255)).mean, parts[0].mean)
    assert np.array_equal(np.concatenate([part.mean for part in parts]), client.encode("tally", images).mean)
    assert len({part.info.request_id for part in parts}) == 1
    scores = list(client.score_stream("tally", images[..., 0], message_size=300))
    assert [len(part.log_likelihood) for part in scores] == [300, 300, 300, 100]
    assert all(part.exact for part in scores)
    whole = client.score("tally", images)
    assert np.array_equal(np.concatenate([part.log_likelihood for part in scores]), whole.log_likelihood)
    assert np.array_equal(np.concatenate([part.bits_per_dim for part in scores]), whole.bits_per_dim)


def test_any_iterable_is_taken_as_it_is_needed(client: Client) -> None:
    taken = 0

    def batches() -> Iterator[Array]:
        nonlocal taken
        for _ in range(500):
            taken += 1
            yield toy_images(2)

    with client.encode_stream("tally", batches()) as parts:
        assert taken == 0
        next(parts)
        assert taken <= 16
        assert len(list(parts)) == 499
    assert taken == 500
    assert list(client.encode_stream("tally", [])) == []
    (one,) = client.encode_stream("tally", [toy_images(1)[0]])
    assert one.mean.shape == (1, 2)


def test_an_error_is_raised_in_its_place_and_the_stream_goes_on(toy_models: Path) -> None:
    small = toy_images(3)
    # What the client finds (a wrong dtype, more than its message limit) and what the server does (its limit of images).
    batches = [small, small.astype(float), small, toy_images(1500), toy_images(600), small]
    told: list[object] = []
    with (
        ServerProcess(toy_models, "--max-images", "500") as server,
        Client(server.address, max_message_bytes=10_000) as client,
        client.encode_stream("tally", batches) as parts,
    ):
        while True:
            try:
                told.append(len(next(parts).mean))
            except InvalidArgument as error:
                told.append((type(error), error.index, str(error).split(":")[0]))
            except StopIteration:
                break
    assert told == [
        3,
        (InvalidArgument, 1, "message 1"),
        3,
        (MessageTooLarge, 3, "message 3"),
        (InvalidArgument, 4, "message 4"),
        3,
    ]


def test_errors_of_the_whole_stream_end_it(client: Client) -> None:
    for model, error in (("nobody", NotFound), ("tally", RuntimeError)):

        def batches() -> Iterator[Array]:
            yield toy_images(1)
            raise RuntimeError("the disk is gone")

        stream = client.encode_stream(model, batches())
        with pytest.raises(error):
            list(stream)
        assert list(stream) == []


def test_an_encoder_that_draws_nothing_says_so_of_each_message(client: Client) -> None:
    stream = client.encode_stream("tally", [toy_images(1)] * 2, draw_seed=1)
    for index in range(2):
        with pytest.raises(RoleNotSupported, match=f"message {index}: encode.draw_seed") as caught:
            next(stream)
        assert caught.value.index == index
    assert list(stream) == []


def test_closing_a_stream_ends_it(client: Client) -> None:
    with client.encode_stream("tally", (toy_images(1) for _ in range(10**9))) as parts:
        next(parts)
    assert list(parts) == []


def test_a_stream_may_last_longer_than_its_timeout(toy_server: ServerProcess, client: Client) -> None:
    """It is for each answer: a call that reaches its deadline while answers come is followed by another."""

    def calls(what: str, **labels: str) -> float:
        return toy_server.metric(f"grpc_server_{what}_total", grpc_method="EncodeStream", **labels)

    def over() -> float:
        # By whichever clock, the server's or the client's.
        return sum(calls("handled", grpc_code=code) for code in ("DeadlineExceeded", "Canceled"))

    images, got, before = toy_images(100), [], over()
    ended = 0.0
    for part in client.encode_stream("tally", images, message_size=1, timeout=2):
        got.append(part.mean)
        if ended < 2:
            # The reader is slow: the call's time is up before the next answer is taken, which may lie there already.
            until(lambda: calls("started") == calls("handled"))
            ended = over() - before
    assert ended >= 2
    assert np.array_equal(np.concatenate(got), client.encode("tally", images).mean)


def test_a_message_above_the_servers_limit_says_the_limit_and_what_to_do(toy_models: Path) -> None:
    images = toy_images(100_000)
    with ServerProcess(toy_models, "--max-message-mib", "1") as server, Client(server.address) as client:
        with pytest.raises(MessageTooLarge, match=r"limit of 1048576: .*encode_stream") as caught:
            list(client.encode_stream("tally", images, message_size=100_000))
        assert sum(len(part.mean) for part in client.encode_stream("tally", images, message_size=1000)) == 100_000
        assert isinstance(caught.value, InvalidArgument)
        with Client(server.address, max_message_bytes=2**20) as small, pytest.raises(MessageTooLarge) as caught:
            list(small.encode_stream("tally", images, message_size=100_000))
        assert caught.value.violations[0].field == "images"


def test_draws_do_not_depend_on_how_images_are_cut_into_messages(vae: Path) -> None:
    images = np.random.default_rng(17).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    with ServerProcess(vae.parent) as server, Client(server.address) as client:
        whole, bound = client.encode("vae", images, draw_seed=3), client.score("vae", images, seed=3)
        assert whole.latent is not None
        for size in (7, 64):
            parts = list(client.encode_stream("vae", images, message_size=size, draw_seed=3))
            latent = np.concatenate([part.latent for part in parts if part.latent is not None])
            np.testing.assert_allclose(latent, whole.latent, atol=1e-5)
            scores = list(client.score_stream("vae", images, message_size=size, seed=3))
            np.testing.assert_allclose(
                np.concatenate([part.log_likelihood for part in scores]), bound.log_likelihood, rtol=1e-5
            )
        rest = client.encode("vae", images[20:], draw_seed=3, first_index=20).latent
        assert rest is not None
        np.testing.assert_allclose(rest, whole.latent[20:], atol=1e-5)
        first = client.encode("vae", images[20:], draw_seed=3).latent
        assert first is not None
        assert not np.allclose(first, whole.latent[20:], atol=1e-2)
