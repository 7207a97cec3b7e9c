"""A grpc.aio server that no method name ends.

What:   gRPC's core, which compares bytes, sorts calls by the names of our methods. Each method has a coroutine that
        takes its calls, and one more takes the calls of all other names and answers UNIMPLEMENTED without looking at
        the name. Where a later gRPC has other parts than those that this takes the place of, which are not public, the
        server is grpc.aio's own, and `rpc.server` opens it again when it ends.
Why:    grpc.aio takes all calls in one loop, which decodes each method's name as UTF-8: where that fails the loop ends,
        and the port closes.
Since:  1.85.
Costs:  less for each call than grpc.aio's loop, which makes a task and a wait for it.
Goes:   tests/integration/test_door.py::test_grpcs_own_server_is_opened_again_and_ends_gracefully
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import grpc

from ancestral_server.rpc.grpc_workarounds.reading import Handler
from ancestral_server.rpc.registered import Registered

_core: Any = importlib.import_module("grpc._cython.cygrpc")
_aio: Any = importlib.import_module("grpc.aio._server")
# What is used of it: a change of any of these would be noticed here and not by a caller.
_METHODS = {"_make_request_call_future": ["method_bytes"], "_request_call": [], "_request_registered_call": ["method"]}
_FUNCTIONS = {
    "_handle_rpc": ["method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded"],
    "_schedule_rpc_coro": ["rpc_coro", "rpc_state", "loop", "method_name"],
}


def known() -> bool:
    """Whether this version of gRPC has the parts that are used, as they are used."""
    try:
        return all(
            list(inspect.signature(getattr(owner, name)).parameters) == [*first, *wanted]
            for owner, functions, first in ((_core.AioServer, _METHODS, ["self"]), (_core, _FUNCTIONS, []))
            for name, wanted in functions.items()
        ) and issubclass(_core._RequestCallError, Exception)
    except (AttributeError, TypeError, ValueError):
        return False


def server(handlers: Sequence[Registered], options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """A server of these handlers' methods, without a port yet. Made on the event loop that it will serve on."""
    if not known():
        return grpc.aio.server(handlers=handlers, options=options)
    calls: _Calls | None = None

    def take(core_server: Any, method_bytes: bytes | None) -> asyncio.Future[Any]:
        """grpc.aio's loop asks for each name once, then for all others, and waits for what it gets."""
        nonlocal calls
        if calls is None:
            calls = _Calls(core_server, handlers)
        return calls.of(method_bytes) if method_bytes is not None else calls.of_strangers()

    core_type: Any = type("AioServer", (_core.AioServer,), {"_make_request_call_future": take})
    loop = asyncio.get_running_loop()
    core_server = core_type(loop, None, handlers, None, options, None)
    # Their handlers are found by the names below, as for a name that is registered nowhere.
    core_server.add_registered_method_handlers({path: None for handler in handlers for path in handler.paths})
    made = _aio.Server.__new__(_aio.Server)
    made._loop, made._server = loop, core_server
    assert isinstance(made, grpc.aio.Server)
    return made


class _Calls:
    """Takes the calls of one server, from its start to its end."""

    def __init__(self, core_server: Any, handlers: Sequence[Registered]) -> None:
        self._server = core_server
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._never = self._loop.create_future()
        self._takers: list[asyncio.Task[None]] = []
        # The event loop alone would forget them.
        self._running: set[asyncio.Task[None]] = set()

    def of(self, method: bytes) -> asyncio.Future[Any]:
        """Take those of a method from now on. What is returned is never done: its calls do not pass grpc.aio's loop."""
        request = partial(self._server._request_registered_call, method)
        self._takers.append(self._loop.create_task(self._take(request, method.decode())))
        return self._never

    def of_strangers(self) -> asyncio.Future[Any]:
        """Take those of all other names. What is returned ends, and grpc.aio's loop with it, when the server does."""
        self._takers.append(self._loop.create_task(self._take(self._server._request_call, "")))
        return asyncio.gather(*self._takers)

    async def _take(self, request: Callable[[], Coroutine[Any, Any, Any]], method: str) -> None:
        """Begin each call as it comes; whatever its name, it is taken for one of `method`."""
        while True:
            try:
                state = await request()
            except _core._RequestCallError:
                if self._server.is_running():
                    continue
                raise
            call = _core._handle_rpc(method, self, (), state, self._loop, False)
            task = self._loop.create_task(_core._schedule_rpc_coro(call, state, self._loop, method))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """What answers a call; None for UNIMPLEMENTED."""
        for handler in self._handlers:
            if (found := handler.service(details)) is not None:
                return found
        return None
