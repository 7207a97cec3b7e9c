"""ModelStreamInfer: the requests of a stream, several of them worked on at a time, and their responses.

A request of a role that draws has a response for each image, as soon as it is finished. Any other has one, and these
keep the order of their requests, as Triton's do. The stream reads ahead of its responses, so that lanes have batches to
go on with, but only so far: gRPC's flow control then holds the caller back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import ExitStack, aclosing
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from ancestral_server.catalog import Catalog
from ancestral_server.engine.job import Job
from ancestral_server.errors import InvalidArgument, ServerError, Stopping
from ancestral_server.rpc.asking import Lane, answered, submit_patiently
from ancestral_server.rpc.bulk import LEAST_MESSAGES_AHEAD, MESSAGE_BATCHES_AHEAD, TURNS_AHEAD
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.open_inference import infer
from ancestral_server.rpc.open_inference.infer import InferCall
from ancestral_server.rpc.roles.signature import INDEX
from ancestral_server.rpc.status import brief
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip

# What a request was found to be, good or not; what its caller is told, or what ends the stream.
_Read: TypeAlias = InferCall | ServerError
_Told: TypeAlias = oip.ModelStreamInferResponse | BaseException

# Responses that wait to be sent. These are packed; the images of others lie in their jobs.
MOST_WAITING = 16
# Of a caller that wants a status and not an error message, by Triton's name: its first error ends the stream.
STRICT = ("triton_grpc_error", "true")


async def answers(
    requests: AsyncIterator[oip.ModelInferRequest],
    context: Context,
    catalog: Catalog,
    settings: Settings,
    draining: Draining,
) -> AsyncGenerator[oip.ModelStreamInferResponse]:
    """The responses to `requests`. If the server stops before their end, those to what was read, and then Stopping."""
    window = _Window(context, catalog, settings)
    reader = asyncio.create_task(window.read(requests))
    ending = asyncio.create_task(window.end_after(reader))
    try:
        if draining.begun:
            reader.cancel()
        with draining.calling(reader.cancel):
            while (told := await window.told.get()) is not None:
                if isinstance(told, BaseException):
                    raise told
                yield told
                window.sent()
        if reader.cancelled() and draining.begun:
            draining.cut_short = True
            raise Stopping
        reader.result()
    finally:
        ending.cancel()
        reader.cancel()
        window.abandon()


class _Window:
    """The requests that were read and are not answered: a task each."""

    def __init__(self, context: Context, catalog: Catalog, settings: Settings) -> None:
        self._context = context
        self._catalog = catalog
        self._most_rows = TURNS_AHEAD * settings.max_batch
        self._most_requests = MESSAGE_BATCHES_AHEAD * settings.max_batch
        self._strict = STRICT in tuple(context.invocation_metadata() or ())
        # With the rows of each.
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._left = asyncio.Event()
        # None after the last; and how many more may wait there.
        self.told: asyncio.Queue[_Told | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MOST_WAITING)
        # Lanes get the requests in their order, also where they have to wait for room.
        self._submitting = asyncio.Lock()
        # Set once the last of the requests with one response has it.
        self._last = asyncio.Event()
        self._last.set()

    # ---- the stream

    async def read(self, requests: AsyncIterator[oip.ModelInferRequest]) -> None:
        """Begin with requests to the last, as the window allows."""
        while True:
            while self._full():
                self._left.clear()
                await self._left.wait()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            except DecodeError as error:
                bad = InvalidArgument("request", f"is a message that cannot be parsed: {error}")
                self._begin(self._one_in_turn(oip.ModelInferRequest(), bad, *self._turn()))
                continue
            self._take_in(request)

    def _full(self) -> bool:
        requests = len(self._tasks)
        if requests < LEAST_MESSAGES_AHEAD:
            return False
        return requests >= self._most_requests or sum(self._tasks.values()) >= self._most_rows

    def _take_in(self, request: oip.ModelInferRequest) -> None:
        call: _Read
        draws, rows = False, 0
        with ExitStack() as holds:
            try:
                model, role = infer.find(self._catalog, request)
                holds.enter_context(model)
                draws = role.signature.draws
                call = infer.read(role, request, one_by_one=draws)
                rows = call.tensors.rows
            except ServerError as error:
                # Without where it was raised, which would hold the whole message until its turn.
                call = error.with_traceback(None)
            work = self._each(request, call) if draws else self._one_in_turn(request, call, *self._turn())
            self._begin(work, rows, holds.pop_all())

    def _begin(self, work: Coroutine[Any, Any, None], rows: int = 0, holds: ExitStack | None = None) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = rows

        def ended(_: object) -> None:
            if holds is not None:
                holds.close()
            del self._tasks[task]
            self._left.set()
            if not task.cancelled() and (fault := task.exception()) is not None:
                self.told.put_nowait(fault)

        # Not by the task itself: one that is cancelled before it begins does nothing at all.
        task.add_done_callback(ended)

    def _turn(self) -> tuple[asyncio.Event, asyncio.Event]:
        """What is set when it is the turn of a request with one response, and what is set after that."""
        before, self._last = self._last, asyncio.Event()
        return before, self._last

    async def end_after(self, reader: asyncio.Task[None]) -> None:
        """Say that there is no more to tell, once everything that was read has its responses."""
        await asyncio.wait({reader})
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self.told.put_nowait(None)

    async def _tell(self, told: _Told) -> None:
        await self._room.acquire()
        self.told.put_nowait(told)

    def sent(self) -> None:
        """A response was handed to gRPC."""
        self._room.release()

    def abandon(self) -> None:
        """Nobody waits for the rest."""
        for task in self._tasks:
            task.cancel()

    # ---- a request

    async def _one_in_turn(
        self, request: oip.ModelInferRequest, call: _Read, before: asyncio.Event, after: asyncio.Event
    ) -> None:
        try:
            told = await self._one(request, call)
            await before.wait()
            await self._tell(told)
        finally:
            after.set()

    async def _one(self, request: oip.ModelInferRequest, call: _Read) -> _Told:
        try:
            if isinstance(call, ServerError):
                raise call
            outputs = await call.role.tensors.infer(call.tensors, self._context, self._ask)
        except ServerError as error:
            return self._failure(request, error)
        reply = infer.reply(call, request, outputs)
        reply.parameters["triton_final_response"].bool_param = True
        return oip.ModelStreamInferResponse(infer_response=reply)

    async def _each(self, request: oip.ModelInferRequest, call: _Read) -> None:
        try:
            if isinstance(call, ServerError):
                raise call
            left, index = call.tensors.rows, call.tensors.inputs[INDEX]
            async with aclosing(call.role.tensors.each(call.tensors, self._context, self._submit)) as images:
                async for row, outputs in images:
                    left -= 1
                    reply = infer.reply(call, request, outputs)
                    reply.parameters["row"].int64_param = row
                    reply.parameters["index"].int64_param = index[row].item()
                    reply.parameters["triton_final_response"].bool_param = not left
                    await self._tell(oip.ModelStreamInferResponse(infer_response=reply))
        except ServerError as error:
            await self._tell(self._failure(request, error))

    async def _ask(self, lane: Lane[Any], job: Job) -> None:
        await self._submit(lane, job)
        await answered(job)

    async def _submit(self, lane: Lane[Any], job: Job) -> None:
        async with self._submitting:
            await submit_patiently(lane, job)

    def _failure(self, request: oip.ModelInferRequest, error: ServerError) -> _Told:
        """What the caller of a request that failed is told."""
        # As in `interceptor`: it would keep the message that it comes from.
        error.__traceback__ = None
        if self._strict:
            return error
        # In the text as well: Triton's client shows nothing else of a request that failed.
        name = request.id[: infer.MAX_ID]
        return oip.ModelStreamInferResponse(
            error_message=brief(str(error)) + (f" (request {name})" if name else ""),
            infer_response=oip.ModelInferResponse(model_name=brief(request.model_name), id=name),
        )
