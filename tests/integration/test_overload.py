"""Overload, deadlines and priorities over the real server, on a model that takes its time."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, priority_pb2, tensor_pb2
from ancestral_exporter.models.base import ImageShape
from pixelcnns import exported, sharp_pixelcnn
from running import ServerProcess
from shared import Shared
from waiting import PATIENCE, until

HEIGHT, WIDTH = 16, 16
BATCH = priority_pb2.PRIORITY_BATCH
# Images of a call that takes many seconds on one thread.
MANY = 40_000


@pytest.fixture(scope="module")
def server(once: Shared) -> Iterator[ServerProcess]:
    """A PixelCNN of 16×16 on one thread."""
    model = sharp_pixelcnn(ImageShape(HEIGHT, WIDTH, 1, 4))
    models = once("overload", lambda folder: exported(model, folder, "slow"))
    most = ("--max-images", "100000", "--max-sample-count", "200000", "--max-queued-images", "10000000")
    with ServerProcess(models, "--threads", "1", "--max-batch", "16", "--slots", "8", *most) as server:
        yield server


def stub_of(server: ServerProcess) -> inference_service_pb2_grpc.InferenceServiceStub:
    return inference_service_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(server.address))


def score(n: int, priority: Any = priority_pb2.PRIORITY_UNSPECIFIED) -> pb.ScoreRequest:
    data = bytes(n * HEIGHT * WIDTH)
    images = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=(n, HEIGHT, WIDTH, 1), data=data)
    return pb.ScoreRequest(model="slow", images=images, priority=priority)


def refusals(server: ServerProcess) -> list[dict[str, Any]]:
    """The lines about refused calls in the log."""
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    return [line for line in lines if line["event"] == "calls refused"]


def detail(error: Any, kind: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None
    return next(kind.FromString(packed.value) for packed in status.details if packed.Is(kind.DESCRIPTOR))


def test_a_flood_is_refused_with_a_delay_and_every_call_is_answered(server: ServerProcess) -> None:
    stub = stub_of(server)
    stub.Score(score(16), timeout=PATIENCE)
    refused_before = server.metric("ancestral_requests_refused_total", role="score", reason="queue_full")
    calls = [stub.Score.future(score(16), timeout=PATIENCE) for _ in range(400)]
    taken, refused = [], []
    for call in calls:
        error: Any = call.exception()
        if error is None:
            taken.append(call.result())
            continue
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, error_details_pb2.ErrorInfo).reason == "QUEUE_FULL"
        delay = detail(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds()
        pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
        assert delay > 0
        # The same delay, for gRPC's own retries: in whole milliseconds, and not too early.
        assert -1e-3 <= int(pushback) - delay * 1000 <= 1
        assert re.search(r"of work, above the limit of [\d.]+ s \(the server's --max-queue-ms 50\b", error.details())
        refused.append(delay)
    assert len(taken) + len(refused) == 400
    # They come a hundred times faster than one at a time is worked off, however fast the machine.
    assert refused
    told = server.metric("ancestral_requests_refused_total", role="score", reason="queue_full") - refused_before
    assert told == len(refused)
    # And the log knows of all of them, in a few lines.

    def logged() -> list[dict[str, Any]]:
        lines = refusals(server)
        return [line for line in lines if (line["reason"], line["lane"]) == ("QUEUE_FULL", "slow:1 score")]

    # Of all that were refused so far, by this test or another one.
    until(lambda: sum(line["calls"] for line in logged()) >= refused_before + told)
    assert sum(line["calls"] for line in logged()) == refused_before + told
    assert all("--max-queue-ms 50" in line["details"] for line in logged())
    # Over as soon as it is over.
    stub.Score(score(1), timeout=PATIENCE)


def test_thousands_of_calls_at_one_moment_are_taken_or_told_to_come_back(server: ServerProcess) -> None:
    async def codes(calls: int) -> Counter[grpc.StatusCode]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = inference_service_pb2_grpc.InferenceServiceStub(channel)
            request = score(1)
            outcomes = await asyncio.gather(*(stub.Score(request) for _ in range(calls)), return_exceptions=True)
        return Counter(o.code() if isinstance(o, grpc.aio.AioRpcError) else grpc.StatusCode.OK for o in outcomes)

    heard = asyncio.run(codes(2_000))
    # gRPC's own refusal, of those that nobody has picked up yet, would be CANCELLED.
    assert heard.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert heard.total() == 2_000


def test_a_deadline_that_cannot_be_met_is_refused_long_before_it_passes(server: ServerProcess) -> None:
    stub = stub_of(server)
    # Minutes of work, even on a fast machine, in a time that is long enough to be heard on a busy one.
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Sample(pb.SampleRequest(model="slow", count=200_000, seed=1), timeout=10)
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(refusal.value, error_details_pb2.ErrorInfo).reason == "DEADLINE_INFEASIBLE"
    assert server.metric("ancestral_requests_refused_total", role="sample", reason="deadline") >= 1
    until(lambda: any(line["reason"] == "DEADLINE_INFEASIBLE" for line in refusals(server)))


def test_batch_calls_wait_as_long_as_it_takes_and_interactive_ones_pass_them(server: ServerProcess) -> None:
    stub = stub_of(server)
    stub.Score(score(16), timeout=PATIENCE)
    first, *bulk = [stub.Score.future(score(n, BATCH), timeout=600) for n in (64, MANY, MANY, MANY)]
    until(lambda: server.metric("ancestral_queued_images", role="score") > MANY)
    # It came last, and waits for the run that is going on; the others for thousands.
    stub.Score(score(1), timeout=PATIENCE)
    assert not any(call.done() for call in bulk)
    assert len(first.result().log_likelihood.data) == 64 * 4
    for call in bulk:
        call.cancel()
    until(lambda: server.metric("ancestral_queued_images", role="score") == 0)


def test_an_interactive_sample_passes_batch_samples(server: ServerProcess) -> None:
    stub = stub_of(server)
    bulk = stub.Sample.future(pb.SampleRequest(model="slow", count=10_000, seed=1, priority=BATCH), timeout=600)
    until(lambda: server.metric("ancestral_queued_images", role="sample"))
    few = stub.Sample(pb.SampleRequest(model="slow", count=10, seed=2), timeout=PATIENCE)
    assert not bulk.done()
    bulk.cancel()
    alone = stub.Sample(pb.SampleRequest(model="slow", count=10, seed=2), timeout=PATIENCE)
    assert few.images.data == alone.images.data
