"""EncodeStream and ScoreStream through the real server: order, errors in their place, bounded memory, cancellation."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import toybundle
from ancestral.v1 import bundle_pb2, inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import Client
from running import ServerProcess
from waiting import PATIENCE, until
from wire import Array, tensor, toy_images

PATH = "/ancestral.v1.InferenceService/EncodeStream"
Stub = inference_service_pb2_grpc.InferenceServiceStub


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


def answers(channel: grpc.Channel, messages: Iterable[pb.EncodeStreamRequest]) -> list[pb.EncodeStreamResponse]:
    replies = list(Stub(channel).EncodeStream(iter(messages), timeout=PATIENCE))
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
        yield message(toy_images(1), "painter")
        yield message(toy_images(1), "tally")
        over.wait(PATIENCE)

    with ServerProcess(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        replies = Stub(channel).EncodeStream(messages(), timeout=PATIENCE)
        assert [next(replies).WhichOneof("outcome") for _ in range(2)] == ["error", "encode"]
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        models.UnloadModel(model_service_pb2.UnloadModelRequest(name="painter"), timeout=PATIENCE)
        over.set()
        assert list(replies) == []


def test_answers_come_in_the_order_of_the_messages_whatever_their_sizes(channel: grpc.Channel) -> None:
    # Some larger than a batch, some larger than the window.
    sizes = (1, 150, 3, 700, 64, 1, 1, 1, 64, 65, 63, 10, 1000, 2)
    batches = [toy_images(n, seed) for seed, n in enumerate(sizes)]
    replies = answers(channel, [message(batch, "tally") for batch in batches])
    assert len(replies) == len(batches)
    for reply, batch in zip(replies, batches, strict=True):
        mean = np.frombuffer(reply.encode.mean.data, np.float32).reshape(reply.encode.mean.shape)
        np.testing.assert_allclose(mean, toybundle.encode(batch), rtol=1e-5)
        assert (reply.encode.info.model, reply.encode.info.version) == ("tally", 1)
        assert reply.encode.info.timing.total_seconds > 0


def test_an_error_stays_at_its_index(channel: grpc.Channel) -> None:
    good = toy_images(2)
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
    good = message(toy_images(1), "tally").SerializeToString()
    replies = list(raw(iter([good, b"\xff\xff\xff", good]), timeout=PATIENCE))
    assert outcomes(replies) == ["encode", "error", "encode"]
    assert replies[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_stream_keeps_to_the_model_of_its_first_message(channel: grpc.Channel) -> None:
    good = toy_images(1)
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
            assert answered.acquire(timeout=PATIENCE)
            yield message(toy_images(1), "tally")

    for _ in Stub(channel).EncodeStream(one_by_one(), timeout=PATIENCE):
        answered.release()


def test_a_caller_that_reads_nothing_is_read_little(toy_server: ServerProcess, channel: grpc.Channel) -> None:
    def received() -> float:
        return toy_server.metric("grpc_server_msg_received_total", grpc_method="EncodeStream")

    before, count = received(), 200
    large = message(toy_images(10_000), "tally")  # 120 kB, its answer 80
    call = Stub(channel).EncodeStream(iter([large] * count), timeout=600)
    for index in range(count):
        if index % 10 == 0:
            # To fetch the metrics takes the time of many messages: all had been read if nothing held the server back.
            # Its window holds two of these; gRPC's own buffers some more.
            assert received() - before < index + count / 4
        assert next(call).index == index
    assert list(call) == []
    assert received() - before == count


def test_a_stream_may_be_cancelled_in_the_middle(toy_server: ServerProcess, channel: grpc.Channel) -> None:
    def cancelled() -> float:
        return toy_server.metric("grpc_server_handled_total", grpc_method="EncodeStream", grpc_code="Canceled")

    before, gone = cancelled(), threading.Event()

    def endless() -> Iterator[pb.EncodeStreamRequest]:
        while not gone.is_set():
            yield message(toy_images(10_000), "tally")

    call = Stub(channel).EncodeStream(endless(), timeout=PATIENCE)
    next(call)
    call.cancel()
    gone.set()
    until(lambda: cancelled() > before and not toy_server.metric("ancestral_queued_images", role="encode"))


def test_a_full_lane_holds_streams_back_and_fails_none(toy_models: Path) -> None:
    images = toy_images(20_000)
    with ServerProcess(toy_models, "--max-queued-images", "70") as server, Client(server.address) as client:

        def whole(_: int) -> Array:
            return np.concatenate([part.mean for part in client.encode_stream("tally", images)])

        with ThreadPoolExecutor(4) as pool:
            for mean in pool.map(whole, range(4)):
                np.testing.assert_allclose(mean, toybundle.encode(images), rtol=1e-5)
        assert server.metric("grpc_server_handled_total", grpc_method="EncodeStream", grpc_code="OK") == 4


def test_the_deadline_is_that_of_the_stream(channel: grpc.Channel) -> None:
    over = threading.Event()

    def stalling() -> Iterator[pb.EncodeStreamRequest]:
        yield message(toy_images(1), "tally")
        over.wait(PATIENCE)

    replies: list[pb.EncodeStreamResponse] = []
    call = Stub(channel).EncodeStream(stalling(), timeout=1)
    with pytest.raises(grpc.RpcError) as failure:
        replies.extend(call)  # keeps those before the failure
    over.set()
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # On a busy machine it may be over before the first answer.
    assert outcomes(replies) == ["encode"] * len(replies)
    assert len(replies) <= 1


# ---- by way of the client
