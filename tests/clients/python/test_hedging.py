"""A call that takes long is asked for once more; the first answer is the one, and busy servers get little to do."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

import ancestral_client as ac
from ancestral.v1 import inference_service_pb2
from ancestral.v1 import model_service_pb2 as models_pb
from ancestral_client import _rpcs, _transport, stream
from ancestral_client._hedging import BURST, SHARE, Hedging
from ancestral_client._roles import classify, decode, encode, features, sample, score
from ancestral_client.testing import FakeServer as Toys
from fakeserver import FakeServer
from running import ServerProcess
from waiting import PATIENCE

# Enough, since the first attempt is held until it is cancelled.
SOON = 0.001


def waits(address: str, **options: Any) -> list[ac.Model]:
    with ac.Client(address, timeout=PATIENCE, retry_seconds=0, **options) as client:
        return client.models()


def awaited(address: str, **options: Any) -> list[ac.Model]:
    async def ask() -> list[ac.Model]:
        async with ac.AsyncClient(address, timeout=PATIENCE, retry_seconds=0, **options) as client:
            return await client.models()

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [waits, awaited])
Ask = Callable[..., list[ac.Model]]


class FirstIsSlow:
    """Holds the first call until it is cancelled, and answers the others with one model, or as `then` does."""

    def __init__(self, fake_server: FakeServer, then: Callable[[grpc.ServicerContext], None] = lambda _: None) -> None:
        self.cancelled = threading.Event()
        self._then = then
        self._slow = iter([True])
        fake_server.answer = self.answer

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(self._slow, False):
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(PATIENCE)
        self._then(context)
        return models_pb.ListModelsResponse(models=[models_pb.Model(name="fast")]).SerializeToString()


@BOTH
def test_the_first_answer_is_the_one_and_the_other_call_is_cancelled(ask: Ask, fake_server: FakeServer) -> None:
    slow = FirstIsSlow(fake_server)
    assert [model.name for model in ask(fake_server.address, hedge_seconds=SOON)] == ["fast"]
    assert slow.cancelled.wait(PATIENCE)
    assert len(fake_server.calls) == 2
    first, second = fake_server.metadata
    assert first["x-request-id"] == second["x-request-id"]


@BOTH
def test_what_every_replica_would_say_is_said_at_once(ask: Ask, fake_server: FakeServer) -> None:
    def refuse(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "count: is 0")

    slow = FirstIsSlow(fake_server, refuse)
    with pytest.raises(ac.InvalidArgument, match="count: is 0"):
        ask(fake_server.address, hedge_seconds=SOON)
    assert slow.cancelled.wait(PATIENCE)


@BOTH
def test_one_is_not_asked_twice_unless_it_is_wanted(ask: Ask, toy_server: ServerProcess) -> None:
    assert ask(toy_server.address) == ask(toy_server.address, hedge_seconds=1000)


def test_a_client_of_toys_takes_it_too() -> None:
    with Toys().client(hedge_seconds=1) as client:
        name = client.models()[0].name
        assert client.model(name).name == name


# ---- by a transport that is told what becomes of calls


class Call:
    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.cancelled = False

    def done(self) -> bool:
        return self.outcome is not None

    def cancel(self) -> None:
        self.cancelled = True


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


class Told:
    """A transport whose calls come to what `outcomes` says, in order; None: to nothing, if anything else does."""

    def __init__(self, *outcomes: object) -> None:
        self._outcomes = list(outcomes)
        self.calls: list[Call] = []

    async def ask(self, rpc: Any, request: Any, options: Any) -> Any:
        return await self.result(self.start(rpc, request, options))

    def start(self, rpc: Any, request: Any, options: Any) -> Call:
        self.calls.append(Call(self._outcomes.pop(0)))
        return self.calls[-1]

    async def any_done(self, calls: Sequence[Call], seconds: float) -> bool:
        done = any(call.done() for call in calls)
        assert done or seconds < math.inf, "it would wait for ever"
        return done

    async def result(self, call: Call) -> Any:
        if isinstance(call.outcome, grpc.RpcError):
            raise call.outcome
        return call.outcome


def ask_told(told: Any, hedging: Hedging, rpc: Any = _rpcs.GET_MODEL) -> Any:
    return _transport.run(hedging.ask(told, rpc, None, dict))


UNAVAILABLE, FULL = Failed(grpc.StatusCode.UNAVAILABLE), Failed(grpc.StatusCode.RESOURCE_EXHAUSTED)
WRONG = Failed(grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("outcomes", "answer", "asked"),
    [
        (("first",), "first", 1),
        ((None, "second"), "second", 2),
        # What is tried again anyway is tried again by those who do, with their pauses.
        ((UNAVAILABLE,), UNAVAILABLE, 1),
        ((None, WRONG), WRONG, 2),
    ],
)
def test_an_answer_or_an_error_of_one_of_two(outcomes: tuple[object, ...], answer: object, asked: int) -> None:
    told = Told(*outcomes)
    if isinstance(answer, grpc.RpcError):
        with pytest.raises(grpc.RpcError) as failure:
            ask_told(told, Hedging(1))
        assert failure.value is answer
    else:
        assert ask_told(told, Hedging(1)) == answer
    assert len(told.calls) == asked
    assert all(call.cancelled for call in told.calls if not call.done())


@pytest.mark.parametrize("failure", [UNAVAILABLE, FULL])
def test_the_other_attempt_is_waited_for_where_one_replica_cannot(failure: Failed) -> None:
    class ThenFirst(Told):
        async def any_done(self, calls: Sequence[Call], seconds: float) -> bool:
            if seconds == math.inf and len(calls) == 1:
                calls[0].outcome = "first"
            return await super().any_done(calls, seconds)

    assert ask_told(ThenFirst(None, failure), Hedging(1)) == "first"


RPCS = [
    rpc
    for module in (_rpcs, stream, classify, decode, encode, features, sample, score)
    for rpc in vars(module).values()
    if isinstance(rpc, _rpcs.Rpc)
]


def test_every_call_of_the_wire_is_looked_at() -> None:
    services = (
        inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
        models_pb.DESCRIPTOR.services_by_name["ModelService"],
    )
    methods = [method.name for service in services for method in service.methods]
    assert sorted(rpc.method for rpc in RPCS) == sorted(methods)


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: str(rpc.method))
def test_only_what_changes_nothing_and_is_a_run_or_less_is_hedged(rpc: Any) -> None:
    told = Told("answer")
    if rpc.hedged:
        told = Told(None, "answer")
    assert ask_told(told, Hedging(1), rpc) == "answer"
    assert rpc.hedged == (
        rpc.method in {"Encode", "Decode", "Score", "ExtractFeatures", "Classify", "ListModels", "GetModel"}
    )


def test_where_everything_is_slow_a_tenth_of_the_calls_are_asked_twice() -> None:
    class Slow(Told):
        def start(self, rpc: Any, request: Any, options: Any) -> Call:
            self.calls.append(Call(None))
            return self.calls[-1]

        async def any_done(self, calls: Sequence[Call], seconds: float) -> bool:
            if seconds == math.inf:
                calls[0].outcome = "late"
            return calls[0].done()

    told, hedging = Slow(), Hedging(1)
    for _ in range(1000):
        ask_told(told, hedging)
    assert len(told.calls) - 1000 == pytest.approx(1000 * SHARE + BURST, abs=1)


def test_what_is_hedged_gives_the_same_bytes(toy_server: ServerProcess) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 4, 3, 1)
    with ac.Client(toy_server.address) as plain, ac.Client(toy_server.address, hedge_seconds=1e-9) as hedged:
        for _ in range(20):
            assert np.array_equal(plain.encode("tally", images).mean, hedged.encode("tally", images).mean)
