"""The streams of a role: many messages of one model through its lane, answered in order, in bounded memory.

A stream reads ahead of its answers, so that the lane always has a batch to go on with, but only so far: while its
window is full it reads nothing, and gRPC's flow control holds the caller back. A message leaves the window when its
answer was sent, so a caller that does not read its answers is held back likewise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from typing import Any, Generic

from google.protobuf.message import DecodeError

from ancestral_server.catalog import Catalog
from ancestral_server.engine.job import OneShotJob, Priority
from ancestral_server.errors import (
    DeadlineExceeded,
    Drained,
    Infeasible,
    InvalidArgument,
    ServerError,
    Unavailable,
)
from ancestral_server.rpc import convert
from ancestral_server.rpc.asking import answered, give_up, submit_patiently
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.recording import current
from ancestral_server.rpc.roles import role_of
from ancestral_server.rpc.roles.base import Req, Res, ServiceRole
from ancestral_server.rpc.status import message_error
from ancestral_server.settings import Settings

# The window, in what the lane runs at a time: once in the lane, once waiting for it, and as much on its way in and out.
TURNS_AHEAD = 4
# The same for messages, in how many batches they would fill with one image each.
MESSAGE_BATCHES_AHEAD = 2
# A message may be larger than the window. Two of them keep the lane busy.
LEAST_MESSAGES_AHEAD = 2
# What is wrong with the whole stream, and not with the message that met it first.
_OF_THE_STREAM = (Unavailable, DeadlineExceeded, Infeasible)


async def stream(
    kind: type[ServiceRole[Req, Res]],
    response: type[Any],
    messages: AsyncIterator[Any],
    context: Context,
    catalog: Catalog,
    settings: Settings,
    draining: Draining,
) -> AsyncGenerator[Any]:
    """The answers to `messages` of a role, each a `response`: both have a field that is called like the role.

    ServerError if the stream cannot go on; Drained if the server stops before its end.
    """
    window = _Window(kind, response, context, catalog, settings)
    reader = asyncio.create_task(window.read(messages))
    reader.add_done_callback(window.read_all)
    index = 0
    try:
        if draining.begun:
            reader.cancel()
        with draining.calling(reader.cancel):
            while await window.holds_any(reader):
                yield await window.answer(index)
                window.leave()
                index += 1
        if reader.cancelled() and draining.begun:
            draining.cut_short = True
            raise Drained(index)
        reader.result()
    finally:
        reader.cancel()
        window.abandon()


class _Window(Generic[Req, Res]):
    """The messages that were read and are not answered, in order: each a job in the lane, or its error."""

    def __init__(
        self,
        kind: type[ServiceRole[Req, Res]],
        response: type[Any],
        context: Context,
        catalog: Catalog,
        settings: Settings,
    ) -> None:
        self._kind = kind
        self._response = response
        self._context = context
        self._catalog = catalog
        self._settings = settings
        self._bound: ServiceRole[Req, Res] | None = None
        # Holds the model, so that it is not unloaded, until the stream ends.
        self._holds = ExitStack()
        self._messages: deque[OneShotJob | ServerError] = deque()
        self._images = 0
        self._most_images = TURNS_AHEAD * settings.max_batch
        # Something came or left, or no more will come.
        self.changed = asyncio.Event()

    # ---- the reader's side

    async def read(self, messages: AsyncIterator[Any]) -> None:
        """Take in messages to the last, as the window allows."""
        while True:
            while self._full():
                await self._change()
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            except DecodeError as error:
                self._enter(InvalidArgument(self._kind.NAME, f"is in a message that cannot be parsed: {error}"))
                continue
            try:
                self._enter(await self._admit(getattr(message, self._kind.NAME)))
            except _OF_THE_STREAM:
                raise
            except ServerError as error:
                # Without where it was raised, which would hold the whole message until its turn.
                self._enter(error.with_traceback(None))

    def _full(self) -> bool:
        messages = len(self._messages)
        if messages < LEAST_MESSAGES_AHEAD:
            return False
        return self._images >= self._most_images or messages >= MESSAGE_BATCHES_AHEAD * self._settings.max_batch

    async def _admit(self, request: Req) -> OneShotJob:
        """The job of a request, in the lane. A full lane is waited for: the caller feels it as backpressure."""
        role = self._bind(request)
        # Somebody who sends a stream does not wait for each of its answers.
        job = role.job(request, self._context, f"{self._kind.NAME}.", unset=Priority.BATCH)
        return await submit_patiently(role.endpoint, job)

    def _bind(self, request: Req) -> ServiceRole[Req, Res]:
        """The role that the stream is bound to, by this message or an earlier one."""
        prefix, role = self._kind.NAME, self._bound
        if role is None:
            name = convert.model_name(f"{prefix}.model", request.model)
            model = self._catalog.find(name, convert.version(f"{prefix}.version", request.version))
            self._bound = role = role_of(model, self._kind, f"{prefix}.model")
            self._holds.enter_context(model)
            self._most_images = TURNS_AHEAD * role.endpoint.rows_at_a_time
            return role
        if request.model:
            convert.model_name(f"{prefix}.model", request.model)
        served = role.served
        for field, found, bound in (
            ("model", request.model, served.name),
            ("version", request.version, served.version),
        ):
            if found and found != bound:
                raise InvalidArgument(
                    f"{prefix}.{field}",
                    f"is {found!r}, must be unset or {bound!r}: an earlier message bound the stream to model "
                    f"{served.name} version {served.version}",
                )
        return role

    def _enter(self, message: OneShotJob | ServerError) -> None:
        self._messages.append(message)
        self._images += _images(message)
        self.changed.set()

    def read_all(self, reader: asyncio.Task[None]) -> None:
        """The reader has ended, well or not."""
        if not reader.cancelled():
            reader.exception()  # seen, or asyncio would report it as lost where the stream ends for another reason
        self.changed.set()

    # ---- the writer's side

    async def holds_any(self, reader: asyncio.Task[None]) -> bool:
        """Whether there is a message to answer; waits while one may still come."""
        while not self._messages and not reader.done():
            await self._change()
        return bool(self._messages)

    async def answer(self, index: int) -> Any:
        """The answer to the first message, which is that of this index."""
        message = self._messages[0]
        try:
            if isinstance(message, ServerError):
                raise message
            await answered(message)
        except _OF_THE_STREAM:
            raise
        except ServerError as error:
            # As in `interceptor`: it would keep the message that it comes from.
            error.__traceback__ = None
            return self._response(index=index, error=message_error(error, current.get().request_id))
        assert self._bound is not None, "a job is that of a role"
        reply = self._response(index=index)
        self._bound.write(getattr(reply, self._kind.NAME), message)
        return reply

    def leave(self) -> None:
        """The answer to the first message was sent."""
        self._images -= _images(self._messages.popleft())
        self.changed.set()

    def abandon(self) -> None:
        """Nobody waits for the rest."""
        self._holds.close()
        for message in self._messages:
            if isinstance(message, OneShotJob):
                give_up(message)
        # Now: the error that ended the stream may hold this window until garbage is collected.
        self._messages.clear()

    async def _change(self) -> None:
        self.changed.clear()
        await self.changed.wait()


def _images(message: OneShotJob | ServerError) -> int:
    return message.rows if isinstance(message, OneShotJob) else 0
