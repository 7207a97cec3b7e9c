"""Many messages in one call, answered in order: as fast as the model goes, in bounded memory, across restarts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import grpc
from google.rpc import status_pb2
from numpy.typing import ArrayLike, NDArray

from ancestral_client import _arrays, errors
from ancestral_client._attempts import Attempts
from ancestral_client._rpcs import Rpc
from ancestral_client._streams import AsyncStream, Stream
from ancestral_client._transport import Transport
from ancestral_client.results import Classes, Decoding, Encoding, Features, Scores

_Result = TypeVar("_Result", bound=Encoding | Decoding | Scores | Features | Classes)

MESSAGE_SIZE = 64
"""Images in a message unless the caller says otherwise: a batch of the server's."""


def size_of_messages(draws: int) -> int:
    """Images in a message where each is scored with so many draws: as much work as a batch, one image at least."""
    return max(1, MESSAGE_SIZE // draws)


# Enough for the few batches that the server reads ahead, and for those on their way. Two keep it busy, however large.
_MOST_AHEAD, _LEAST_AHEAD = 16, 2
_MOST_BYTES_AHEAD = 32 * 2**20

END = object()  # of the messages: None might be one of them, and is to be told of


@dataclass(frozen=True)
class Role(Generic[_Result]):
    """What the calls of a role do in their own way. `name` also names the fields of a stream's messages."""

    name: str
    rpc: Rpc[Any, Any]
    request: Callable[[NDArray[Any], int], Any]
    """A request for images [N,H,W,C], or latents [N,Z], and the index of the first of them."""
    result: Callable[[Any], _Result]
    message_size: int = field(default=MESSAGE_SIZE, kw_only=True)
    """Images in a message unless the caller says otherwise."""


@dataclass(frozen=True)
class StreamedRole(Role[_Result]):
    """A role that also answers messages in a stream."""

    stream: Rpc[Any, Any]
    message: Callable[..., Any]


async def as_it_is(images: NDArray[Any]) -> NDArray[Any]:
    """The `fit` of what is fit already."""
    return images


class Source:
    """The images of a call, a message at a time: an array is cut, what is none gives messages itself.

    `fit` makes [N,H,W,C] of a message. An asynchronous iterable is taken where the caller `awaits`.
    """

    def __init__(
        self, images: Any, message_size: int, fit: Callable[[Any], Awaitable[NDArray[Any]]], *, awaits: bool = False
    ) -> None:
        self._given = images
        self._size = message_size
        self._awaits = awaits
        self._parts: Iterator[ArrayLike] | AsyncIterator[ArrayLike] | None = None
        self.fit = fit

    async def open(self) -> None:
        """InvalidArgument if they are no images."""
        if self._parts is not None:
            return
        images, size = self._given, self._size
        if _arrays.is_array(images):
            whole, self.fit = await self.fit(images), as_it_is
            self._parts = (whole[start : start + size] for start in range(0, len(whole), size))
        elif self._awaits and isinstance(images, AsyncIterable):
            self._parts = aiter(images)
        else:
            try:
                self._parts = iter(images)
            except TypeError:
                found = type(images).__name__
                raise errors.invalid("images", f"must be an array or an iterable of arrays, not {found}") from None
        self._given = None  # an array of floats need not stay beside what was made of it

    async def next(self) -> Any:
        """The next message as it is; `END` after the last."""
        await self.open()
        if isinstance(self._parts, AsyncIterator):
            return await anext(self._parts, END)
        return END if self._parts is None else next(self._parts, END)


class BulkStream(Stream[_Result]):
    """The answers of one `Client.encode_stream` or `score_stream`: one for each message, in order.

    An error of one message is raised in its place, with its `index`, and the iteration may go on after it: the others
    are not lost. An error of the whole stream ends it. Where the server goes away meanwhile, the messages that were not
    answered are sent again, to the same version of the model.

    The images are taken from their source as the answers are read, by the thread that reads them, at most 16 messages
    ahead. Leaving the `with` block or `close()` stops the server; so does dropping the last reference.
    """


class AsyncBulkStream(AsyncStream[_Result]):
    """The answers of one `AsyncClient.encode_stream` or `score_stream`: a BulkStream for `async for` and `async with`.

    The source of the images may be an asynchronous iterable, too; one that is not is read by the event loop's thread.
    A task that is cancelled while it waits for an answer ends the stream; so does `asyncio.timeout` around it.
    """


class BulkAnswers(Generic[_Result]):
    """What the messages of a stream are answered with, in order."""

    def __init__(
        self,
        transport: Transport,
        source: Source,
        role: StreamedRole[_Result],
        attempts: Attempts,
    ) -> None:
        self._transport = transport
        self._source = source
        self._role = role
        self._attempts = attempts
        # Read and not answered: requests, and errors of those that were not fit to be sent.
        self._window: deque[Any] = deque()
        self._index = self._images = self._version = 0
        self._exhausted = False
        self._closed = transport.flag()  # may be set by one thread while another waits
        # The call, what it is to send, and how many answers it gave. None ends the sending.
        self._call: Any = None
        self._to_send = self._outbox()
        self._received = 0

    def _outbox(self) -> Any:
        message, name = self._role.message, self._role.name
        return self._transport.outbox(lambda request: message(**{name: request}))

    async def open(self) -> None:
        await self._source.open()

    async def next(self) -> _Result | None:
        try:
            await self.open()
            outcome = await self._next()
        except BaseException:
            # Also Ctrl-C: in a notebook the traceback would keep the stream alive, and the server at work.
            self.cancel()
            raise
        if isinstance(outcome, errors.AncestralError):
            raise outcome
        return outcome

    async def _next(self) -> _Result | errors.AncestralError | None:
        """The answer to the next message, which may be an error; None after the last one."""
        while not self._closed.is_set():
            await self._read_ahead()
            if not self._window:
                await self._finish()
                break
            outcome = await self._receive(self._window[0])
            if outcome is not None:
                self._window.popleft()
                self._index += 1
                return outcome.of_message(self._index - 1) if isinstance(outcome, errors.AncestralError) else outcome
        return None

    async def _read_ahead(self) -> None:
        """Take messages from the source while the window has room."""
        while not self._exhausted and self._has_room():
            batch = await self._source.next()
            if batch is END:
                self._exhausted = True
                self._to_send.put(None)
                return
            try:
                images = await self._source.fit(batch)
                request = self._role.request(images, self._images)
            except errors.InvalidArgument as error:
                self._window.append(error)
                continue
            request.version = self._version or request.version
            self._images += len(images)
            self._window.append(request)
            self._to_send.put(request)

    def _has_room(self) -> bool:
        if len(self._window) < _LEAST_AHEAD:
            return True
        ahead = (request for request in self._window if not isinstance(request, errors.AncestralError))
        ahead_bytes = sum(math.prod(request.images.shape) for request in ahead)
        return len(self._window) < _MOST_AHEAD and ahead_bytes < _MOST_BYTES_AHEAD

    async def _receive(self, message: Any) -> _Result | errors.AncestralError | None:
        """The answer to the first message of the window; None if another call has to be asked."""
        if isinstance(message, errors.AncestralError):
            return message
        if self._call is None:
            self._begin()
        try:
            reply = await self._transport.read(self._call)
        except grpc.RpcError as failed:
            # Unless it was closed while this thread waited.
            if not self._closed.is_set() and not await self._transport.wait(self._closed, self._attempts.pause(failed)):
                self._begin()
            return None
        if reply is None:
            raise errors.ServerFault(f"the stream ended with {len(self._window)} messages unanswered")
        self._attempts.answered()
        if reply.index != self._received:
            raise errors.ServerFault(f"the server answered message {reply.index} of its stream, not {self._received}")
        self._received += 1
        if reply.HasField("error"):
            status = status_pb2.Status.FromString(reply.error.SerializeToString())
            return errors.from_status(status)
        result = self._role.result(getattr(reply, self._role.name))
        self._version = result.info.version
        return result

    def _begin(self) -> None:
        """Begin a call with what is not answered."""
        self._to_send.put(None)  # ends the thread that fed the last call
        self._to_send, self._received = self._outbox(), 0
        for request in self._window:
            if not isinstance(request, errors.AncestralError):
                request.version = self._version or request.version
                self._to_send.put(request)
        if self._exhausted:
            self._to_send.put(None)
        self._call = self._transport.begin(self._role.stream, self._to_send, self._attempts.options())
        if self._closed.is_set():
            self.cancel()

    async def _finish(self) -> None:
        """Everything is answered: let the call end well."""
        self._closed.set()
        if self._call is not None:
            with suppress(grpc.RpcError):
                await self._transport.read(self._call)

    def cancel(self) -> None:
        self._closed.set()
        self._to_send.put(None)
        if self._call is not None:
            self._call.cancel()
