"""The images of a call as they are finished, also across restarts of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _wire
from ancestral_client._attempts import Attempts
from ancestral_client._rpcs import Rpc
from ancestral_client._streams import AsyncStream, Stream
from ancestral_client._transport import Transport
from ancestral_client.errors import ServerFault
from ancestral_client.results import PaintedRow, SampledImage

_SAMPLE_STREAM: Rpc[pb.SampleStreamRequest, pb.SampleStreamResponse] = Rpc("inference", "SampleStream")


class SampleStream(Stream[SampledImage | PaintedRow]):
    """The events of one `Client.sample_stream`, in the order in which they happen.

    Every image comes once; the iteration ends after the last one, and raises an AncestralError if it cannot get there.
    Where the server goes away meanwhile, what is missing is asked for again, from the same version of the model, so
    that the images are those of an undisturbed stream.

    The server stops painting when the stream is closed: by `close()`, at the end of a `with` block, or when nothing
    refers to it any more, as after leaving a loop over a stream without a name.
    """


class AsyncSampleStream(AsyncStream[SampledImage | PaintedRow]):
    """The events of one `AsyncClient.sample_stream`: a SampleStream for `async for` and `async with`.

    The call begins when its first event is awaited. A task that is cancelled while it waits for an event ends the
    stream; so does `asyncio.timeout` around it.
    """


class SampleEvents:
    """What happens in a stream of samples, each event once.

    `fitted` completes the request by what only a model's shape can tell.
    """

    def __init__(
        self,
        transport: Transport,
        request: pb.SampleStreamRequest,
        fitted: Callable[[pb.SampleRequest], Awaitable[None]],
        attempts: Attempts,
    ) -> None:
        self._transport = transport
        self._request = request
        self._fitted = fitted
        self._attempts = attempts
        self._count = request.sample.count
        # Images [next, end) are missing, but for those that came out of order.
        self._next, self._end = request.sample.first_index, request.sample.first_index + self._count
        self._ahead: set[int] = set()
        # Per image that is being painted, how many rows were told.
        self._rows: dict[int, int] = {}
        self._closed = transport.flag()  # may be set by one thread while another waits
        self._call: Any = None

    async def open(self) -> None:
        if self._call is None:
            await self._fitted(self._request.sample)
            self._begin()

    async def next(self) -> SampledImage | PaintedRow | None:
        try:
            while not self._closed.is_set():
                await self.open()
                event = await self._receive()
                if event is not None and self._is_news(event):
                    self._attempts.answered()
                    return event
        except BaseException:
            # Also Ctrl-C: in a notebook the traceback would keep the stream alive, and the server at work.
            self.cancel()
            raise
        return None

    def _begin(self) -> None:
        self._call = self._transport.begin(_SAMPLE_STREAM, self._request, self._attempts.options())
        if self._closed.is_set():
            self._call.cancel()

    async def _receive(self) -> SampledImage | PaintedRow | None:
        """The next event; None if there is none: of a kind that is not known here, or another call has to be tried."""
        try:
            reply = await self._transport.read(self._call)
        except grpc.RpcError as failed:
            if not self._closed.is_set():  # while this was waited for
                await self._resume(failed)
            return None
        if reply is not None:
            return _event(reply)
        self._closed.set()
        missing = self._end - self._next - len(self._ahead)
        if missing:
            raise ServerFault(f"the stream ended with {missing} of {self._count} images missing")
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

    async def _resume(self, failed: grpc.RpcError) -> None:
        """Ask for what is missing after a pause; raises what cannot be mended."""
        if self._next == self._end:  # only its end was lost
            self._closed.set()
            return
        if await self._transport.wait(self._closed, self._attempts.pause(failed)):
            return
        sample = self._request.sample
        done = self._next - sample.first_index
        sample.first_index, sample.count = self._next, self._end - self._next
        for name in ("given", "known"):
            if sample.HasField(name):
                tensor = getattr(sample, name)
                tensor.CopyFrom(_wire.from_row(tensor, done))
        self._begin()

    def cancel(self) -> None:
        self._closed.set()
        if self._call is not None:
            self._call.cancel()


def _event(reply: pb.SampleStreamResponse) -> SampledImage | PaintedRow | None:
    """What happened in a stream; None if it is of a kind that this client does not know yet."""
    info = _wire.info(reply.info)
    match reply.WhichOneof("event"):
        case "image":
            image = reply.image
            likelihood = image.log_likelihood if image.HasField("log_likelihood") else None
            return SampledImage(image.index, image.seed, _wire.unpack(image.image), likelihood, info)
        case "row":
            return PaintedRow(reply.row.index, reply.row.row, _wire.unpack(reply.row.pixels), info)
    return None
