"""How calls end that fail, above all those whose deadline has passed."""

from __future__ import annotations

import asyncio
import weakref
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import DeadlineExceeded, Infeasible, ServerError
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds import expiry
from ancestral_server.rpc.interceptor import CallInterceptor
from ancestral_server.rpc.recorders import CallMetrics
from waiting import PATIENCE, at_rest


class Call:
    """A context with so many seconds left: gRPC's own cancels the handler at some time after its deadline."""

    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining
        self.told: list[grpc.StatusCode] = []

    def time_remaining(self) -> float | None:
        return self._remaining

    def add_done_callback(self, _: Any) -> None: ...

    async def read(self) -> bytes:
        return b""

    async def abort(self, code: grpc.StatusCode, message: str, trailers: Any) -> None:
        self.told.append(code)
        raise grpc.aio.AbortError


class Job:
    """What a method waits for, which fails."""

    def __init__(self, error: ServerError) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.future.set_exception(error)


def answering(error: ServerError, jobs: list[weakref.ref[Job]] | None = None) -> tuple[Any, Any]:
    """A method that fails, and its counts."""

    async def behaviour(request: bytes, context: Any) -> None:
        job = Job(error)
        if jobs is not None:
            jobs.append(weakref.ref(job))
        await job.future

    metrics = Metrics("test")
    methods = CallInterceptor(CallMetrics(metrics), Arrivals(), Draining())
    handlers: dict[str, Any] = {"Method": grpc.unary_unary_rpc_method_handler(behaviour)}
    methods.add_registered_method_handlers("a.Service", handlers)

    async def call(_: Any, context: Any) -> None:
        details: Any = SimpleNamespace(method="/a.Service/Method", invocation_metadata=())
        handler: Any = methods.service(details)
        await handler.stream_unary(None, context)

    return call, metrics.method("unary", "a.Service", "Method").handled


def test_who_has_expired_is_told_nothing_since_grpc_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "EXPIRY_SECONDS", 3600)

    async def work() -> None:
        answer, counted = answering(DeadlineExceeded("waited"))
        call = Call(-0.001)
        handling = asyncio.ensure_future(answer(None, call))
        await at_rest()
        assert not handling.done()
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        assert not call.told
        assert counted["DeadlineExceeded"] == sum(counted.values()) == 1

    asyncio.run(work())


def test_who_has_expired_is_told_after_all_where_grpc_does_not_end_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "EXPIRY_SECONDS", 0.01)
    answer, _ = answering(DeadlineExceeded("waited"))
    call = Call(-0.001)
    with pytest.raises(grpc.aio.AbortError):
        asyncio.run(answer(None, call))
    assert call.told == [grpc.StatusCode.DEADLINE_EXCEEDED]


@pytest.mark.parametrize("remaining", [None, 0.5])
def test_who_has_time_left_is_told_at_once(monkeypatch: pytest.MonkeyPatch, remaining: float | None) -> None:
    monkeypatch.setattr(expiry, "EXPIRY_SECONDS", 3600)
    answer, _ = answering(Infeasible("needs more"))
    call = Call(remaining)
    with pytest.raises(grpc.aio.AbortError):
        asyncio.run(asyncio.wait_for(answer(None, call), PATIENCE))
    assert call.told == [grpc.StatusCode.DEADLINE_EXCEEDED]


@pytest.mark.usefixtures("no_collection")
def test_a_call_that_fails_leaves_nothing_for_the_garbage_collector() -> None:
    jobs: list[weakref.ref[Job]] = []

    async def work() -> None:
        for _ in range(3):
            answer, _ = answering(Infeasible("needs more"), jobs)
            with pytest.raises(grpc.aio.AbortError):
                await answer(None, Call(None))

    asyncio.run(work())
    assert [job() for job in jobs] == [None] * 3
