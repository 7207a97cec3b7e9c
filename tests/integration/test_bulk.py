"""EncodeStream and ScoreStream through the real server: order, errors in their place, bounded memory, cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import toybundle
from ancestral.v1 import bundle_pb2, inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import Client, InvalidArgument, MessageTooLarge, NotFound, RoleNotSupported
from running import ServerProcess

RANDOM = np.random.default_rng(17)
PATH = "/ancestral.v1.InferenceService/EncodeStream"
Array = np.ndarray[Any, Any]
Stub = inference_service_pb2_grpc.InferenceServiceStub


def some_images(n: int) -> Array:
    return RANDOM.integers(0, 256, (n, toybundle.HEIGHT, toybundle.WIDTH, 1), dtype=np.uint8)


def tensor(array: Array) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=array.shape, data=array.tobytes())


def message(images: Array, model: str = "", **fields: Any) -> pb.EncodeStreamRequest:
    return pb.EncodeStreamRequest(encode=pb.EncodeRequest(model=model, images=tensor(images), **fields))


def field_of(reply: pb.EncodeStreamResponse) -> str:
    """The field that an error names."""
    status = status_pb2.Status.FromString(reply.error.SerializeToString())
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return str(bad.field_violations[0].field)


@pytest.fixture(scope="module")
def channel(toy_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(toy_server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def client(toy_server: ServerProcess) -> Iterator[Client]:
    with Client(toy_server.address, timeout=30) as client:
        yield client


def answers(channel: grpc.Channel, messages: Iterable[pb.EncodeStreamRequest]) -> list[pb.EncodeStreamResponse]:
    replies = list(Stub(channel).EncodeStream(iter(messages), timeout=30))
    assert [reply.index for reply in replies] == list(range(len(replies)))
    return replies


def outcomes(replies: list[pb.EncodeStreamResponse]) -> list[str | None]:
    return [reply.WhichOneof("outcome") for reply in replies]


def test_a_stream_holds_no_model_that_it_cannot_use(tmp_path: Path) -> None:
    def no_encoder(manifest: bundle_pb2.Bundle) -> None:
        del manifest.roles[[role.name for role in manifest.roles].index("encode")]

    toybundle.write(tmp_path)
    toybundle.write(tmp_path, "painter", change=no_encoder)
    over = threading.Event()

    def messages() -> Iterator[pb.EncodeStreamRequest]:
        yield message(some_images(1), "painter")
        yield message(some_images(1), "tally")
        over.wait(60)

    with ServerProcess(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        replies = Stub(channel).EncodeStream(messages(), timeout=60)
        assert [next(replies).WhichOneof("outcome") for _ in range(2)] == ["error", "encode"]
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        models.UnloadModel(model_service_pb2.UnloadModelRequest(name="painter"), timeout=30)
        over.set()
        assert list(replies) == []


def test_answers_come_in_the_order_of_the_messages_whatever_their_sizes(channel: grpc.Channel) -> None:
    # Some larger than a batch, some larger than the window.
    batches = [some_images(n) for n in (1, 150, 3, 700, 64, 1, 1, 1, 64, 65, 63, 10, 1000, 2)]
    replies = answers(channel, [message(batch, "tally") for batch in batches])
    assert len(replies) == len(batches)
    for reply, batch in zip(replies, batches, strict=True):
        mean = np.frombuffer(reply.encode.mean.data, np.float32).reshape(reply.encode.mean.shape)
        np.testing.assert_allclose(mean, toybundle.encode(batch), rtol=1e-5)
        assert (reply.encode.info.model, reply.encode.info.version) == ("tally", 1)
        assert reply.encode.info.timing.total_seconds > 0


def test_an_error_stays_at_its_index(channel: grpc.Channel) -> None:
    good = some_images(2)
    nothing_in_it = message(good[:0])
    other_shape = message(np.zeros((1, 8, 8, 1), np.uint8))
    draws = message(good, draw_seed=1)
    seed = message(good, first_index=-1)
    messages = [message(good, "tally"), nothing_in_it, message(good), other_shape, draws, seed, message(good)]
    replies = answers(channel, [*messages, pb.EncodeStreamRequest(), message(good, "x" * 10**6)])
    assert outcomes(replies) == ["encode", "error", "encode", "error", "error", "error", "encode", "error", "error"]
    fields = [field_of(replies[i]) for i in (1, 3, 4, 5, 7, 8)]
    assert fields == [
        f"encode.{f}" for f in ("images.shape", "images.shape", "draw_seed", "first_index", "images.dtype", "model")
    ]
    assert "has 1000000 characters, must have at most 256" in replies[8].error.message
    assert "has N = 0, must be 1 to 10000" in replies[1].error.message
    assert replies[4].error.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert replies[0].encode.mean.data == replies[6].encode.mean.data


def test_bytes_that_are_no_message_are_answered_at_their_index(channel: grpc.Channel) -> None:
    raw = channel.stream_stream(
        PATH, request_serializer=lambda data: data, response_deserializer=pb.EncodeStreamResponse.FromString
    )
    good = message(some_images(1), "tally").SerializeToString()
    replies = list(raw(iter([good, b"\xff\xff\xff", good]), timeout=30))
    assert outcomes(replies) == ["encode", "error", "encode"]
    assert replies[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_stream_keeps_to_the_model_of_its_first_message(channel: grpc.Channel) -> None:
    good = some_images(1)
    replies = answers(
        channel,
        [
            message(good),
            message(good, "nobody"),
            message(good, "tally"),
            message(good, "tally", version=1),
            message(good, version=1),
            message(good, "other"),
            message(good, "tally", version=2),
            message(good),
        ],
    )
    assert outcomes(replies) == ["error", "error", "encode", "encode", "encode", "error", "error", "encode"]
    assert "encode.model: is empty" in replies[0].error.message
    assert replies[1].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "encode.model: is 'other', must be unset or 'tally'" in replies[5].error.message
    assert "encode.version: is 2, must be unset or 1" in replies[6].error.message
    assert "model tally version 1" in replies[6].error.message
    assert [field_of(replies[i]) for i in (0, 5, 6)] == ["encode.model", "encode.model", "encode.version"]


def test_a_stream_without_messages_ends_well(channel: grpc.Channel) -> None:
    assert answers(channel, []) == []


def test_answers_come_while_the_stream_is_open(channel: grpc.Channel) -> None:
    """A caller may wait for each answer before it sends the next message."""
    answered = threading.Semaphore(1)

    def one_by_one() -> Iterator[pb.EncodeStreamRequest]:
        for _ in range(5):
            assert answered.acquire(timeout=10)
            yield message(some_images(1), "tally")

    for _ in Stub(channel).EncodeStream(one_by_one(), timeout=30):
        answered.release()


def test_a_caller_that_reads_nothing_is_read_little(toy_server: ServerProcess, channel: grpc.Channel) -> None:
    def received() -> float:
        return toy_server.metric("grpc_server_msg_received_total", grpc_method="EncodeStream")

    before, count = received(), 400
    large = message(some_images(10_000), "tally")  # 120 kB, its answer 80
    call = Stub(channel).EncodeStream(iter([large] * count), timeout=120)
    while received() == before:
        time.sleep(0.1)
    seen = -1.0
    while seen != (seen := received()):
        time.sleep(1)
    # The window holds two of these; gRPC's own buffers some more.
    assert 0 < seen - before < count / 2
    assert [reply.index for reply in call] == list(range(count))
    assert received() - before == count


def test_a_stream_may_be_cancelled_in_the_middle(toy_server: ServerProcess, channel: grpc.Channel) -> None:
    def cancelled() -> float:
        return toy_server.metric("grpc_server_handled_total", grpc_method="EncodeStream", grpc_code="Canceled")

    before, gone = cancelled(), threading.Event()

    def endless() -> Iterator[pb.EncodeStreamRequest]:
        while not gone.is_set():
            yield message(some_images(10_000), "tally")

    call = Stub(channel).EncodeStream(endless(), timeout=60)
    next(call)
    call.cancel()
    gone.set()
    began = time.monotonic()
    while cancelled() == before or toy_server.metric("ancestral_queued_images", role="encode"):
        assert time.monotonic() - began < 10
        time.sleep(0.02)


def test_a_full_lane_holds_streams_back_and_fails_none(toy_models: Path) -> None:
    images = some_images(20_000)
    with ServerProcess(toy_models, "--max-queued-images", "70") as server, Client(server.address) as client:

        def whole(_: int) -> Array:
            return np.concatenate([part.mean for part in client.encode_stream("tally", images)])

        with ThreadPoolExecutor(4) as pool:
            for mean in pool.map(whole, range(4)):
                np.testing.assert_allclose(mean, toybundle.encode(images), rtol=1e-5)
        assert server.metric("grpc_server_handled_total", grpc_method="EncodeStream", grpc_code="OK") == 4


def test_the_deadline_is_that_of_the_stream(channel: grpc.Channel) -> None:
    waiting = threading.Event()

    def stalling() -> Iterator[pb.EncodeStreamRequest]:
        yield message(some_images(1), "tally")
        waiting.wait(20)

    call = Stub(channel).EncodeStream(stalling(), timeout=1)
    assert next(call).HasField("encode")
    with pytest.raises(grpc.RpcError) as failure:
        next(call)
    waiting.set()
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# ---- by way of the client


def test_the_parts_of_an_array_are_what_one_call_gives(client: Client) -> None:
    images = some_images(1000)
    parts = list(client.encode_stream("tally", images))
    assert [len(part.mean) for part in parts] == [64] * 15 + [40]
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
            yield some_images(2)

    with client.encode_stream("tally", batches()) as parts:
        assert taken == 0
        next(parts)
        assert taken <= 16
        assert len(list(parts)) == 499
    assert taken == 500
    assert list(client.encode_stream("tally", [])) == []
    (one,) = client.encode_stream("tally", [some_images(1)[0]])
    assert one.mean.shape == (1, 2)


def test_an_error_is_raised_in_its_place_and_the_stream_goes_on(toy_models: Path) -> None:
    small = some_images(3)
    # What the client finds (a wrong dtype, more than its message limit) and what the server does (its limit of images).
    batches = [small, small.astype(float), small, some_images(1500), some_images(600), small]
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
            yield some_images(1)
            raise RuntimeError("the disk is gone")

        stream = client.encode_stream(model, batches())
        with pytest.raises(error):
            list(stream)
        assert list(stream) == []


def test_an_encoder_that_draws_nothing_says_so_of_each_message(client: Client) -> None:
    stream = client.encode_stream("tally", [some_images(1)] * 2, draw_seed=1)
    for index in range(2):
        with pytest.raises(RoleNotSupported, match=f"message {index}: encode.draw_seed") as caught:
            next(stream)
        assert caught.value.index == index
    assert list(stream) == []


def test_closing_a_stream_ends_it(client: Client) -> None:
    with client.encode_stream("tally", (some_images(1) for _ in range(10**9))) as parts:
        next(parts)
    assert list(parts) == []


def test_a_stream_may_last_longer_than_its_timeout(client: Client) -> None:
    """It is for each answer: a call that reaches its deadline while answers come is followed by another."""
    began, got = time.monotonic(), 0
    for part in client.encode_stream("tally", some_images(25), message_size=1, timeout=2):
        got += len(part.mean)
        time.sleep(0.2)
    assert got == 25
    assert time.monotonic() - began > 4


def test_a_message_above_the_servers_limit_says_the_limit_and_what_to_do(toy_models: Path) -> None:
    images = some_images(100_000)
    with ServerProcess(toy_models, "--max-message-mib", "1") as server, Client(server.address) as client:
        for call in (client.encode, client.score):
            with pytest.raises(MessageTooLarge, match=r"limit of 1048576: .*encode_stream") as caught:
                call("tally", images)
            assert isinstance(caught.value, InvalidArgument)
        with pytest.raises(MessageTooLarge, match="limit of 1048576"):
            list(client.encode_stream("tally", images, message_size=100_000))
        assert sum(len(part.mean) for part in client.encode_stream("tally", images, message_size=1000)) == 100_000
        with Client(server.address, max_message_bytes=2**20) as small, pytest.raises(MessageTooLarge) as caught:
            small.encode("tally", images)
        assert caught.value.violations[0].field == "images"


def test_draws_do_not_depend_on_how_images_are_cut_into_messages(tmp_path: Path) -> None:
    import torch

    from ancestral_exporter.bundle import write_bundle
    from ancestral_exporter.models.base import ImageShape
    from ancestral_exporter.models.vae import VAE

    torch.manual_seed(0)
    vae = VAE(ImageShape(8, 8, 1, 17), likelihood_name="categorical", latent_size=2, channels=4, features=8, blocks=0)
    write_bundle(vae, name="vae", models_dir=tmp_path, golden_images=np.zeros((2, 8, 8, 1), np.uint8))
    images = RANDOM.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    with ServerProcess(tmp_path) as server, Client(server.address) as client:
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
