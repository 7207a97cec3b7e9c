"""Servers that stop or are killed in the middle, and others that take over: what the client gets is the same."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from ancestral_client import AsyncClient, Client, NotFound, PaintedRow, SampledImage, Samples
from ancestral_client._attempts import Attempts
from link import Link
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until

Array = np.ndarray[Any, Any]
# Samples that take longer than it takes to stop a server.
COUNT = 500


@pytest.fixture(scope="module")
def models(large: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`large`, whose samples take a while, and `tally`."""
    models: Path = tmp_path_factory.mktemp("models")
    shutil.copytree(large, models / large.name)
    toybundle.write(models)
    return models


@pytest.fixture(scope="module")
def expected(models: Path) -> Samples:
    with ServerProcess(models) as server, Client(server.address) as client:
        return client.sample("large", COUNT, seed=7)


class Replaceable:
    """A server on one port that can be replaced by a fresh one."""

    def __init__(self, models: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.models = models
        self.server = self.start()

    def start(self) -> ServerProcess:
        return ServerProcess(self.models, "--port", str(self.port), *PATIENT)

    def replace(self, number: signal.Signals) -> int:
        """Stop the server with a signal, and start the next one when it has gone; its exit code."""
        code = self.server.stop(number)
        self.server = self.start()
        return code


def patient(place: Replaceable) -> Client:
    """A client that waits out the restart of its server on a busy machine, too."""
    return Client(place.address, timeout=4 * PATIENCE, retry_seconds=4 * PATIENCE)


@pytest.fixture
def place(models: Path) -> Iterator[Replaceable]:
    place = Replaceable(models)
    yield place
    place.server.stop()


SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)], ids=["drain", "kill"]
)


@SIGNALS
def test_a_sample_stream_goes_on_at_the_next_server(
    place: Replaceable, expected: Samples, number: signal.Signals, code: int
) -> None:
    found: dict[int, SampledImage] = {}
    rows: dict[int, list[Array]] = {}
    with (
        ThreadPoolExecutor(1) as pool,
        patient(place) as client,
        client.sample_stream("large", COUNT, seed=7, progress=True) as events,
    ):
        for position, event in enumerate(events):
            if position == 0:
                replaced = pool.submit(place.replace, number)
            if isinstance(event, PaintedRow):
                assert event.row == len(rows.setdefault(event.index, []))
                rows[event.index].append(event.pixels)
                continue
            assert event.index not in found
            found[event.index] = event
        assert replaced.result() == code
    assert sorted(found) == list(range(COUNT))
    assert np.array_equal(np.stack([found[i].image for i in range(COUNT)]), expected.images)
    assert expected.log_likelihood is not None
    assert [found[i].log_likelihood for i in range(COUNT)] == expected.log_likelihood.tolist()
    assert np.array_equal(np.stack([np.stack(rows[i]) for i in range(COUNT)]), expected.images)
    assert place.server.metric("grpc_server_started_total", grpc_method="SampleStream") == 1, "it was not interrupted"


def test_an_awaited_stream_goes_on_at_the_next_server(place: Replaceable, expected: Samples) -> None:
    async def ask() -> dict[int, Array]:
        found: dict[int, Array] = {}
        patient = AsyncClient(place.address, timeout=4 * PATIENCE, retry_seconds=4 * PATIENCE)
        async with patient as client, client.sample_stream("large", COUNT, seed=7) as events:
            async for event in events:
                assert isinstance(event, SampledImage)
                assert event.index not in found
                if not found:
                    replaced = asyncio.ensure_future(asyncio.to_thread(place.replace, signal.SIGKILL))
                found[event.index] = event.image
            assert await replaced == -signal.SIGKILL
        return found

    found = asyncio.run(ask())
    assert np.array_equal(np.stack([found[i] for i in range(COUNT)]), expected.images)
    assert place.server.metric("grpc_server_started_total", grpc_method="SampleStream") == 1, "it was not interrupted"


@SIGNALS
def test_a_bulk_stream_goes_on_at_the_next_server(place: Replaceable, number: signal.Signals, code: int) -> None:
    images = some_images(200 * 10)
    with ThreadPoolExecutor(1) as pool, patient(place) as client:
        whole = client.encode("tally", images).mean
        parts = []
        for part in client.encode_stream("tally", images, message_size=10):
            parts.append(part.mean)
            if len(parts) == 50:
                replaced = pool.submit(place.replace, number)
        assert replaced.result() == code
        scores = np.concatenate([part.log_likelihood for part in client.score_stream("tally", images)])
        assert np.array_equal(scores, client.score("tally", images).log_likelihood)
    assert np.array_equal(np.concatenate(parts), whole)
    assert place.server.metric("grpc_server_started_total", grpc_method="EncodeStream") == 1, "it was not interrupted"


def some_images(count: int) -> Array:
    shape = (count, toybundle.HEIGHT, toybundle.WIDTH, 1)
    return np.random.default_rng(23).integers(0, 256, shape, dtype=np.uint8)


def begun(server: ServerProcess, method: str) -> None:
    until(lambda: server.metric("grpc_server_started_total", grpc_method=method))


def test_a_killed_server_that_comes_back_answers_the_calls_that_it_left(
    place: Replaceable, expected: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, pause = 0, Attempts.pause

    def counted(attempts: Attempts, failed: grpc.RpcError) -> float:
        nonlocal pauses
        pauses += 1
        return pause(attempts, failed)

    monkeypatch.setattr(Attempts, "pause", counted)
    with ThreadPoolExecutor(4) as pool, patient(place) as client:
        # The client's first calls of all: it knows the server only from connections that break.
        half = COUNT // 2
        calls = [pool.submit(client.sample, "large", half, seed=7, first_index=first) for first in (0, half)]
        begun(place.server, "Sample")
        place.server.stop(signal.SIGKILL)
        until(lambda: pauses >= 3 * len(calls))
        place.server = place.start()
        samples = [call.result() for call in calls]
    assert np.array_equal(np.concatenate([each.images for each in samples]), expected.images)
    # Refusals that were waited out count too.
    assert place.server.metric("grpc_server_started_total", grpc_method="Sample") >= len(calls)


def test_a_drain_lets_unary_calls_finish_where_they_are(place: Replaceable, expected: Samples) -> None:
    with ThreadPoolExecutor(1) as pool, Client(place.address, retry_seconds=0) as client:
        call = pool.submit(client.sample, "large", 150, seed=7)
        begun(place.server, "Sample")
        assert place.server.stop(signal.SIGTERM) == 0
        assert np.array_equal(call.result().images, expected.images[:150])


def refused(server: ServerProcess, *methods: str) -> int:
    """How often a call heard that the server stops: of those methods, the one that heard it least often."""
    return int(
        min(
            server.metric("grpc_server_handled_total", grpc_method=method, grpc_code="Unavailable")
            for method in methods
        )
    )


def test_calls_and_streams_wait_out_a_long_drain(place: Replaceable, expected: Samples) -> None:
    """One call keeps the old server there, and refusing: for longer than clients wait for what never was there."""
    images = some_images(2000)
    old = place.server
    with (
        ThreadPoolExecutor(4) as pool,
        patient(place) as client,
        Link(place.address) as link,
        grpc.insecure_channel(link.address) as channel,
    ):
        whole = client.encode("tally", images).mean
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stub.Sample(pb.SampleRequest(model="tally", count=1), timeout=PATIENCE)
        # Its answer does not get through, so that the server waits until it is given up.
        link.answers.clear()
        held = stub.Sample.future(pb.SampleRequest(model="tally", count=10_000), timeout=3600)
        try:
            until(lambda: old.metric("grpc_server_msg_sent_total", grpc_method="Sample") == 2)
            events, parts = client.sample_stream("large", COUNT, seed=7), client.encode_stream("tally", images)
            first_event, first_part = next(events), next(parts)
            replaced = pool.submit(place.replace, signal.SIGTERM)
            calls: list[Future[Any]] = [pool.submit(list, events), pool.submit(list, parts)]
            until(lambda: refused(old, "SampleStream", "EncodeStream"))
            calls.append(pool.submit(client.encode, "tally", images))
            # Who gives up after a second is refused four times.
            until(lambda: refused(old, "SampleStream", "EncodeStream", "Encode") >= 5)
            assert not any(call.done() for call in calls), calls
        finally:
            held.cancel()
            link.answers.set()
        more_events, more_parts, encoding = (call.result() for call in calls)
        assert replaced.result() == 0
    found = {event.index: event.image for event in (first_event, *more_events)}
    assert np.array_equal(np.stack([found[i] for i in range(COUNT)]), expected.images)
    assert np.array_equal(np.concatenate([part.mean for part in (first_part, *more_parts)]), whole)
    assert np.array_equal(encoding.mean, whole)


def test_a_resumed_stream_does_not_mix_versions(tmp_path: Path) -> None:
    """What was encoded until then is worth nothing beside the latents of another version."""
    toybundle.write(tmp_path, version=1)
    place = Replaceable(tmp_path)
    images = some_images(2000)
    try:
        with patient(place) as client:
            parts = client.encode_stream("tally", images, message_size=1)
            next(parts)
            place.server.stop(signal.SIGKILL)
            (tmp_path / "tally" / "1").rename(tmp_path / "gone")
            toybundle.write(tmp_path, version=2)
            place.server = place.start()
            with pytest.raises(NotFound, match="no version 1; it has 2"):
                list(parts)
    finally:
        place.server.stop()


def details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    status = rpc_status.from_call(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    return info, retry


def drained(error: grpc.RpcError) -> int:
    """The index that the end of a drained stream says to go on from."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    info, retry = details(error)
    assert info.reason == "SERVER_DRAINING"
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0
    assert {"grpc-retry-pushback-ms": "0"}.items() <= {
        pair.key: pair.value for pair in error.trailing_metadata()
    }.items()
    return int(info.metadata["next_index"])


def interrupted(server: ServerProcess, call: Any, after: int) -> tuple[list[Any], int]:
    """The replies of a call whose server is told to stop after some of them, and the index to go on from."""
    replies = [next(call) for _ in range(after)]
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(server.stop)
        with pytest.raises(grpc.RpcError) as failure:
            replies.extend(call)  # keeps those before the failure
        assert stopped.result() == 0
    return replies, drained(failure.value)


def test_a_drained_sample_stream_sent_all_below_the_index_that_it_names(models: Path) -> None:
    with ServerProcess(models, *PATIENT) as server, grpc.insecure_channel(server.address) as channel:
        sample = pb.SampleRequest(model="large", count=5000, seed=7, first_index=1000)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        call = stub.SampleStream(pb.SampleStreamRequest(sample=sample), timeout=PATIENCE)
        replies, next_index = interrupted(server, call, after=3)
        assert sorted(reply.image.index for reply in replies) == list(range(1000, next_index))
        assert 1003 <= next_index < 6000


def test_a_drained_bulk_stream_answered_all_below_the_index_that_it_names(models: Path) -> None:
    """Also where the caller is silent and its stream open: nobody waits for it."""
    over = threading.Event()
    image = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=(1, 4, 3, 1), data=bytes(12))
    message = pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="tally", images=image))

    def messages() -> Iterator[pb.EncodeStreamRequest]:
        for _ in range(20):
            yield message
        over.wait(PATIENCE)

    with ServerProcess(models) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        call = stub.EncodeStream(messages(), timeout=PATIENCE)
        until(lambda: server.metric("grpc_server_msg_received_total", grpc_method="EncodeStream") == 20)
        replies, next_index = interrupted(server, call, after=15)
        over.set()
        assert [reply.index for reply in replies] == list(range(next_index))
        assert next_index == 20
        assert all(reply.HasField("encode") for reply in replies)
