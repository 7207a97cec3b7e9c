"""The window of a stream over a lane whose program waits or fails when it is told to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from structlog.testing import capture_logs

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.access import Meter, Quota
from ancestral_server.catalog import ModelVersion, State
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.engine.lane import Lane
from ancestral_server.errors import Drained
from ancestral_server.metrics import Metrics
from ancestral_server.rpc import asking, bulk, door
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.recorders import CallerAccounts
from ancestral_server.rpc.recording import Call, Method, current
from ancestral_server.rpc.roles import base
from ancestral_server.rpc.roles.base import Served
from ancestral_server.rpc.roles.encode import Encode
from fakeprograms import Doubler, batch_lane, run, until
from waiting import at_rest

BATCH = 4
SETTINGS: Any = SimpleNamespace(max_batch=BATCH, max_images=100, max_message_bytes=10**6)
CONTEXT: Any = SimpleNamespace(time_remaining=lambda: None)


class Source:
    """Messages of so many images each, all of them 1 but for the first messages' `values`; counts what was read."""

    def __init__(self, messages: int, images: int, values: Sequence[int] = ()) -> None:
        self.read = 0
        self._messages = messages
        self._images = images
        self._values = values

    async def each(self) -> AsyncIterator[pb.EncodeStreamRequest]:
        for index in range(self._messages):
            value = self._values[index] if index < len(self._values) else 1
            data = bytes([value] * self._images)
            images = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=[self._images, 1], data=data)
            self.read += 1
            yield pb.EncodeStreamRequest(encode=pb.EncodeRequest(model="toy", images=images))


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def lane(doubler: Doubler) -> Iterator[Lane[OneShotJob]]:
    with batch_lane(doubler, Limits(images=1000)) as lane:
        yield lane


def stream(lane: Lane[OneShotJob], doubler: Doubler, source: Source, draining: Draining | None = None) -> Any:
    program: Any = doubler
    endpoint = OneShotEndpoint(
        lane.stats, interactive=lane, bulk=lane, most_interactive_rows=math.inf, rows_at_a_time=BATCH
    )
    role = Encode(Served("toy", 1, bundle_pb2.Bundle(), SETTINGS), program, endpoint)
    model = ModelVersion("toy", 1, State.SERVING, endpoints={"encode": endpoint}, roles={"encode": role})
    catalog: Any = SimpleNamespace(find=lambda name, version: model)
    return bulk.stream(
        Encode, pb.EncodeStreamResponse, source.each(), CONTEXT, catalog, SETTINGS, draining or Draining()
    )


@pytest.mark.parametrize(
    ("images", "most"),
    [
        # By images, by messages, and the two that there always may be.
        (2, bulk.TURNS_AHEAD * BATCH // 2),
        (1, bulk.MESSAGE_BATCHES_AHEAD * BATCH),
        (50, bulk.LEAST_MESSAGES_AHEAD),
    ],
)
def test_no_more_is_read_than_the_window_holds(
    lane: Lane[OneShotJob], doubler: Doubler, images: int, most: int
) -> None:
    async def work() -> None:
        source = Source(100, images)
        doubler.gate.clear()
        async with aclosing(stream(lane, doubler, source)) as replies:
            asking = asyncio.ensure_future(anext(replies))
            await until(lambda: source.read == most)
            # The lane is held, so that nothing else will make the stream read on.
            await at_rest()
            assert source.read == most
            doubler.gate.set()
            indices = [(await asking).index]
            async for reply in replies:
                indices.append(reply.index)
                assert source.read <= reply.index + most
            assert indices == list(range(100))

    run(work())


def test_what_nobody_waits_for_any_more_is_not_run(lane: Lane[OneShotJob], doubler: Doubler) -> None:
    async def work() -> None:
        doubler.gate.clear()
        async with aclosing(stream(lane, doubler, Source(100, BATCH))) as replies:
            asking = asyncio.ensure_future(anext(replies))
            await until(lambda: lane.queued == bulk.TURNS_AHEAD - 1)
            asking.cancel()
            await asyncio.wait([asking])
        doubler.gate.set()
        await until(lambda: not lane.queued and not lane.turns)
        assert doubler.sizes == [BATCH], "only the batch that was running"

    run(work())


def test_a_failed_run_is_an_error_of_its_messages(lane: Lane[OneShotJob], doubler: Doubler) -> None:
    async def work() -> None:
        async with aclosing(stream(lane, doubler, Source(5, BATCH, values=[1, 13, 1]))) as replies:
            outcomes = [reply.WhichOneof("outcome") async for reply in replies]
        assert outcomes == ["encode", "error", "encode", "encode", "encode"]

    run(work())


def test_a_stream_over_its_callers_quota_is_held_back_and_not_refused(
    lane: Lane[OneShotJob], doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, waited = [0.0], []
    caller = Metrics("test").access.caller("photos", lambda: 0)
    meter = Meter(Quota(images_per_second=BATCH), now=0)
    visit = door.Visit("photos", meter, caller, stream=True)
    monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    async def work() -> None:
        current.set(Call(Method("bidi_stream", "", ""), "", CallerAccounts(), visit=visit))
        # Only what the stream itself waits for passes at once.
        monkeypatch.setattr(asking, "asyncio", Patient(wait))
        async with aclosing(stream(lane, doubler, Source(6, BATCH))) as replies:
            assert [reply.WhichOneof("outcome") async for reply in replies] == ["encode"] * 6

    run(work())
    # A burst, one on credit, and from then on a message a second.
    assert waited == [1.0] * 4
    assert now == [4.0]
    assert caller.images._value.get() == 6 * BATCH


class Patient:
    """asyncio with another way to sleep."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def test_a_drain_answers_what_was_read_and_names_the_next(lane: Lane[OneShotJob], doubler: Doubler) -> None:
    async def work() -> None:
        draining, source = Draining(), Source(100, BATCH)
        doubler.gate.clear()
        replies = stream(lane, doubler, source, draining)
        asking = asyncio.ensure_future(anext(replies))
        await until(lambda: source.read == bulk.TURNS_AHEAD)
        draining.begin()
        doubler.gate.set()
        indices = [(await asking).index, *[(await anext(replies)).index for _ in range(bulk.TURNS_AHEAD - 1)]]
        with pytest.raises(Drained) as drained:
            await anext(replies)
        assert indices == list(range(bulk.TURNS_AHEAD))
        assert drained.value.next_index == bulk.TURNS_AHEAD
        with pytest.raises(Drained) as drained:
            await anext(stream(lane, doubler, source, draining))
        assert drained.value.next_index == 0

    run(work())


@pytest.mark.usefixtures("no_collection")
def test_messages_that_fail_leave_nothing_for_the_garbage_collector(
    lane: Lane[OneShotJob], doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[ref[Watched]] = []

    class Watched(OneShotJob):
        """A job of this test's: having no slots, it can be referred to weakly."""

        def __init__(self, *values: Any, **more: Any) -> None:
            super().__init__(*values, **more)
            jobs.append(ref(self))

    async def work() -> None:
        replies = [reply async for reply in stream(lane, doubler, Source(6, 1, [13, 13, 13]))]
        assert [reply.WhichOneof("outcome") for reply in replies][:3] == ["error"] * 3
        # The entries hold the errors, these their frames, and these the jobs.
        logs.clear()
        await until(lambda: [job() for job in jobs] == [None] * 6)

    monkeypatch.setattr(base, "OneShotJob", Watched)
    # Not rendered as for a terminal, with the variables of every frame, which keeps them.
    with capture_logs() as logs:
        run(work())
