"""A call that answers bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from types import TracebackType
from typing import Protocol, Self

import grpc

from ancestral.v1 import inference_service_pb2
from ancestral_client import _wire
from ancestral_client.errors import AncestralError, ServerFault
from ancestral_client.results import PaintedRow, SampledImage


class _Call(Protocol):
    """What is used of gRPC's own iterator, which has no public name."""

    def __next__(self) -> inference_service_pb2.SampleStreamResponse: ...
    def cancel(self) -> object: ...


class SampleStream(Iterator[SampledImage | PaintedRow]):
    """The events of one `Client.sample_stream`, in the order in which they happen.

    Every image comes once; the iteration ends after the last one, and raises an AncestralError if it cannot get there.
    The server stops painting when the stream is closed: by `close()`, at the end of a `with` block, or when nothing
    refers to it any more, as after leaving a loop over a stream without a name.
    """

    def __init__(self, call: _Call, count: int, failure: Callable[[grpc.RpcError], AncestralError]) -> None:
        self._call = call
        self._count = self._missing = count
        self._failure = failure
        self._closed = Event()  # may be set by one thread while another waits

    def __next__(self) -> SampledImage | PaintedRow:
        while not self._closed.is_set():
            try:
                event = _wire.event(next(self._call))
            except StopIteration:
                self._closed.set()
                if self._missing:
                    raise ServerFault(
                        f"the stream ended with {self._missing} of {self._count} images missing"
                    ) from None
            except grpc.RpcError as error:
                if self._closed.is_set():  # while this thread waited
                    break
                self._closed.set()
                raise self._failure(error) from None
            except BaseException:
                # Ctrl-C while waiting: in a notebook the traceback would keep the stream alive, and the server at work.
                self.close()
                raise
            else:
                if event is not None:
                    self._missing -= isinstance(event, SampledImage)
                    return event
        raise StopIteration

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
