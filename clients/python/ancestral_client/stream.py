"""A call that answers bit by bit, and goes on where it was when the server goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from types import TracebackType
from typing import Any, Protocol, Self

import grpc

from ancestral.v1 import inference_service_pb2
from ancestral_client import _wire
from ancestral_client._attempts import Attempts
from ancestral_client.errors import ServerFault
from ancestral_client.results import PaintedRow, SampledImage


class _Call(Protocol):
    """What is used of gRPC's own iterator, which has no public name."""

    def __next__(self) -> inference_service_pb2.SampleStreamResponse: ...
    def cancel(self) -> object: ...


class SampleStream(Iterator[SampledImage | PaintedRow]):
    """The events of one `Client.sample_stream`, in the order in which they happen.

    Every image comes once; the iteration ends after the last one, and raises an AncestralError if it cannot get there.
    Where the server goes away meanwhile, what is missing is asked for again, from the same version of the model, so
    that the images are those of an undisturbed stream.

    The server stops painting when the stream is closed: by `close()`, at the end of a `with` block, or when nothing
    refers to it any more, as after leaving a loop over a stream without a name.
    """

    def __init__(
        self,
        rpc: Callable[..., Any],
        request: inference_service_pb2.SampleStreamRequest,
        attempts: Attempts,
    ) -> None:
        self._rpc = rpc
        self._request = request
        self._attempts = attempts
        self._count = request.sample.count
        # Images [next, end) are missing, but for those that came out of order.
        self._next, self._end = request.sample.first_index, request.sample.first_index + self._count
        self._ahead: set[int] = set()
        # Per image that is being painted, how many rows were told.
        self._rows: dict[int, int] = {}
        self._closed = Event()  # may be set by one thread while another waits
        self._call: _Call = rpc(request, **attempts.options())

    def __next__(self) -> SampledImage | PaintedRow:
        try:
            while not self._closed.is_set():
                event = self._receive()
                if event is not None and self._is_news(event):
                    self._attempts.answered()
                    return event
        except BaseException:
            # Also Ctrl-C: in a notebook the traceback would keep the stream alive, and the server at work.
            self.close()
            raise
        raise StopIteration

    def _receive(self) -> SampledImage | PaintedRow | None:
        """The next event; None if there is none: of a kind that is not known here, or another call has to be tried."""
        try:
            event = _wire.event(next(self._call))
        except StopIteration:
            self._closed.set()
            missing = self._end - self._next - len(self._ahead)
            if missing:
                raise ServerFault(f"the stream ended with {missing} of {self._count} images missing") from None
        except grpc.RpcError as failed:
            if not self._closed.is_set():  # while this thread waited
                self._resume(failed)
        else:
            return event
        return None

    def _is_news(self, event: SampledImage | PaintedRow) -> bool:
        """Whether it was not told before a call was resumed."""
        self._request.sample.version = event.info.version
        index = event.index
        if index < self._next or index in self._ahead:
            return False
        if isinstance(event, PaintedRow):
            new = event.row == self._rows.get(index, 0)
            self._rows[index] = self._rows.get(index, 0) + new
            return new
        self._rows.pop(index, None)
        self._ahead.add(index)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        return True

    def _resume(self, failed: grpc.RpcError) -> None:
        """Ask for what is missing after a pause; raises what cannot be mended."""
        if self._next == self._end:  # only its end was lost
            self._closed.set()
            return
        if self._closed.wait(self._attempts.pause(failed)):
            return
        sample = self._request.sample
        done = self._next - sample.first_index
        sample.first_index, sample.count = self._next, self._end - self._next
        for name in ("given", "known"):
            if sample.HasField(name):
                tensor = getattr(sample, name)
                tensor.CopyFrom(_wire.from_row(tensor, done))
        self._call = self._rpc(self._request, **self._attempts.options())
        if self._closed.is_set():
            self._call.cancel()

    def close(self) -> None:
        """Cancels what has not come yet; the iteration ends. Does nothing to a stream that has ended."""
        self._closed.set()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
