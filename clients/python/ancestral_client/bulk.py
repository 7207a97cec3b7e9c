"""Many messages in one call, answered in order: as fast as the model goes, in bounded memory, across restarts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import numpy as np
from google.rpc import status_pb2
from numpy.typing import ArrayLike, NDArray

from ancestral_client import errors
from ancestral_client._attempts import Attempts
from ancestral_client.results import Encoding, Scores

_Result = TypeVar("_Result", bound=Encoding | Scores)

MESSAGE_SIZE = 64
"""Images in a message unless the caller says otherwise: a batch of the server's."""


def size_of_messages(draws: int) -> int:
    """Images in a message where each is scored with so many draws: as much work as a batch, one image at least."""
    return max(1, MESSAGE_SIZE // draws)


# Enough for the few batches that the server reads ahead, and for those on their way. Two keep it busy, however large.
_MOST_AHEAD, _LEAST_AHEAD = 16, 2
_MOST_BYTES_AHEAD = 32 * 2**20


@dataclass(frozen=True)
class Role(Generic[_Result]):
    """What the streams of a role do in their own way. `name` also names the fields of their messages."""

    name: str
    rpc: Callable[..., Any]
    message: Callable[..., Any]
    result: Callable[[Any], _Result]


def cut(
    images: NDArray[np.uint8] | Iterable[ArrayLike], size: int, fit: Callable[[ArrayLike], NDArray[np.uint8]]
) -> Iterable[ArrayLike]:
    """An array in messages of `size` images; what is no array gives messages itself."""
    if not isinstance(images, np.ndarray):
        try:
            return iter(images)
        except TypeError:
            found = type(images).__name__
            raise errors.invalid("images", f"must be an array or an iterable of arrays, not {found}") from None
    whole = fit(images)
    return (whole[start : start + size] for start in range(0, len(whole), size))


class BulkStream(Iterator[_Result]):
    """The answers of one `Client.encode_stream` or `score_stream`: one for each message, in order.

    An error of one message is raised in its place, with its `index`, and the iteration may go on after it: the others
    are not lost. An error of the whole stream ends it. Where the server goes away meanwhile, the messages that were not
    answered are sent again, to the same version of the model.

    The images are taken from their source as the answers are read, by the thread that reads them, at most 16 messages
    ahead. Leaving the `with` block or `close()` stops the server; so does dropping the last reference.
    """

    def __init__(
        self,
        batches: Iterable[ArrayLike],
        fit: Callable[[ArrayLike], NDArray[np.uint8]],
        request: Callable[[NDArray[np.uint8], int], Any],
        role: Role[_Result],
        attempts: Attempts,
    ) -> None:
        """`fit` makes [N,H,W,C] of a batch, `request` a message of that and the index of its first image."""
        self._batches = iter(batches)
        self._fit = fit
        self._request = request
        self._role = role
        self._attempts = attempts
        # Read and not answered: requests, and errors of those that were not fit to be sent.
        self._window: deque[Any] = deque()
        self._index = self._images = self._version = 0
        self._exhausted = False
        self._closed = Event()  # may be set by one thread while another waits
        # The call, what it is to send, and how many answers it gave. None ends the sending.
        self._call: Any = None
        self._to_send: SimpleQueue[Any] = SimpleQueue()
        self._received = 0

    def __next__(self) -> _Result:
        try:
            outcome = self._next()
        except BaseException:
            # Also Ctrl-C: in a notebook the traceback would keep the stream alive, and the server at work.
            self.close()
            raise
        if outcome is None:
            raise StopIteration
        if isinstance(outcome, errors.AncestralError):
            raise outcome
        return outcome

    def _next(self) -> _Result | errors.AncestralError | None:
        """The answer to the next message, which may be an error; None after the last one."""
        while not self._closed.is_set():
            self._read_ahead()
            if not self._window:
                self._finish()
                break
            outcome = self._receive(self._window[0])
            if outcome is not None:
                self._window.popleft()
                self._index += 1
                return outcome.of_message(self._index - 1) if isinstance(outcome, errors.AncestralError) else outcome
        return None

    def _read_ahead(self) -> None:
        """Take messages from the source while the window has room."""
        while not self._exhausted and self._has_room():
            try:
                batch = next(self._batches)
            except StopIteration:
                self._exhausted = True
                self._to_send.put(None)
                return
            try:
                images = self._fit(batch)
                request = self._request(images, self._images)
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

    def _receive(self, message: Any) -> _Result | errors.AncestralError | None:
        """The answer to the first message of the window; None if another call has to be asked."""
        if isinstance(message, errors.AncestralError):
            return message
        if self._call is None:
            self._open()
        try:
            reply = next(self._call)
        except StopIteration:
            raise errors.ServerFault(f"the stream ended with {len(self._window)} messages unanswered") from None
        except grpc.RpcError as failed:
            # Unless it was closed while this thread waited.
            if not self._closed.is_set() and not self._closed.wait(self._attempts.pause(failed)):
                self._open()
            return None
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

    def _open(self) -> None:
        """Begin a call with what is not answered."""
        self._to_send.put(None)  # ends the thread that fed the last call
        self._to_send, self._received = SimpleQueue(), 0
        for request in self._window:
            if not isinstance(request, errors.AncestralError):
                request.version = self._version or request.version
                self._to_send.put(request)
        if self._exhausted:
            self._to_send.put(None)
        messages = (self._role.message(**{self._role.name: request}) for request in iter(self._to_send.get, None))
        self._call = self._role.rpc(messages, **self._attempts.options())
        if self._closed.is_set():
            self.close()

    def _finish(self) -> None:
        """Everything is answered: let the call end well."""
        self._closed.set()
        if self._call is not None:
            try:
                next(self._call)
            except (StopIteration, grpc.RpcError):
                return

    def close(self) -> None:
        """Cancels what has not come yet; the iteration ends. Does nothing to a stream that has ended."""
        self._closed.set()
        self._to_send.put(None)
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
