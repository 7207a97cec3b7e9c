"""What all calls of a client have in common, written once: `Client` runs these coroutines, `AsyncClient` awaits them.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import model_service_pb2 as models_pb
from ancestral_client import _arguments, _arrays, _rpcs, _wire
from ancestral_client._access import Access, Entry
from ancestral_client._arguments import Compression, Priority
from ancestral_client._attempts import Attempts, Server
from ancestral_client._batches import Batches
from ancestral_client._channel import Way
from ancestral_client._hedging import Hedging
from ancestral_client._joining import Joining
from ancestral_client._progress import Progress, told
from ancestral_client._requests import Requests
from ancestral_client._rpcs import Rpc
from ancestral_client._transport import Transport
from ancestral_client.bulk import END, BulkAnswers, Role, Source, StreamedRole, as_it_is
from ancestral_client.errors import invalid
from ancestral_client.results import Classes, Decoding, Encoding, Features, Model, Scores

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)
_Result = TypeVar("_Result", Encoding, Decoding, Scores, Features, Classes)

Images = ArrayLike | Iterable[ArrayLike] | AsyncIterable[ArrayLike]
"""An array of images, or an iterable of such arrays."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a client; see `Client`."""

    address: str
    timeout: float
    retry_seconds: float
    hedge_seconds: float | None
    priority: Priority
    bulk_priority: Priority
    max_message_bytes: int
    proxy: str | None
    compression: Compression
    access: Access


@dataclass(frozen=True, slots=True)
class _Fit:
    """Makes [N,H,W,C] of images for a model."""

    batches: Batches
    model: str
    version: int
    scale: float | None
    timeout: float | None

    async def __call__(self, images: Any) -> NDArray[np.uint8]:
        return await self.batches.images("images", images, self.model, self.version, self.timeout, self.scale)


class Calls:
    """The calls of a client over its transport: those about models, and what those of the roles are made of."""

    def __init__(self, settings: Settings, transport: Callable[[Way, Entry], Transport]) -> None:
        _arguments.timeout_of(settings.timeout)
        self.most_bytes = _arguments.message_bytes_of(settings.max_message_bytes)
        address = _arguments.address_of(settings.address)
        entry = Entry(settings.access, address)
        self._server = Server(address, _arguments.retry_seconds_of(settings.retry_seconds), entry.metadata)
        self.requests = Requests(self.most_bytes, _arguments.priority_of(settings.priority))
        # Who sends a stream does not wait for each of its answers.
        self.bulk_requests = Requests(self.most_bytes, _arguments.priority_of(settings.bulk_priority))
        self.timeout = settings.timeout
        self.batches = Batches(lambda name, version, timeout: self.model(name, version, timeout=timeout))
        self._hedging = Hedging(_arguments.hedge_seconds_of(settings.hedge_seconds))
        proxy, compression = _arguments.proxy_of(settings.proxy), _arguments.compression_of(settings.compression)
        self.transport = transport(Way(address, self.most_bytes, proxy, compression), entry)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self.transport.close()

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version, including those that do not serve.

        `timeout` is that of all pages together, where they are more than fits one answer. Unavailable where no server
        answers, as of every call.
        """
        attempts, request = self.attempts(timeout), models_pb.ListModelsRequest()
        found: list[Model] = []
        while True:
            reply = await self.ask(_rpcs.LIST_MODELS, request, attempts)
            found += map(_wire.model, reply.models)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """What one model is and can do; NotFound where there is none of that name, or not that version."""
        request = models_pb.GetModelRequest(
            name=_arguments.name_of("name", name), version=_arguments.version_of(version)
        )
        return _wire.model((await self.ask(_rpcs.GET_MODEL, request, self.attempts(timeout))).model)

    async def load(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """Has a version loaded, or loaded anew, from the server's folder: the highest there unless `version` says.

        Returns when it serves; a BundleRefused leaves what served before in place.
        """
        request = models_pb.LoadModelRequest(
            name=_arguments.name_of("name", name), version=_arguments.version_of(version)
        )
        return _wire.model((await self.ask(_rpcs.LOAD_MODEL, request, self.attempts(timeout))).model)

    async def unload(self, name: str, version: int = 0, *, timeout: float | None = None) -> None:
        """Has a version taken out of service, or all of them; returns when their running calls have ended.

        NotFound where there is none of that name, or not that version.
        """
        request = models_pb.UnloadModelRequest(
            name=_arguments.name_of("name", name), version=_arguments.version_of(version)
        )
        await self.ask(_rpcs.UNLOAD_MODEL, request, self.attempts(timeout))

    def fit(self, model: str, scale: float | None, version: int, timeout: float | None) -> _Fit:
        return _Fit(self.batches, _arguments.name_of("model", model), _arguments.version_of(version), scale, timeout)

    async def whole(
        self, role: Role[_Result], fit: _Fit, images: Images, timeout: float | None, progress: Progress
    ) -> _Result:
        """The answer for all images, in as many calls or messages as it takes."""
        _arguments.progress_of(progress)
        if isinstance(images, Iterator | AsyncIterable):
            return await self._joined(role, self._source(images, role.message_size, fit), timeout, progress)
        batch = await fit(images)
        await self.batches.check_role(role.name, fit.model, fit.version, timeout)
        most = self._most_at_once(fit, batch)
        return await self.answered(role, batch, most, min(most, role.message_size), timeout, progress)

    async def answered(
        self,
        role: Role[_Result],
        batch: NDArray[Any],
        most: int,
        size: int,
        timeout: float | None,
        progress: Progress,
    ) -> _Result:
        """The answer for all of a batch: in one call, unless that is more than `most`, or somebody watches; then in
        messages of `size`.
        """
        if len(batch) > (size if progress else most):
            return await self._joined(role, Source(batch, size, as_it_is), timeout, progress, len(batch))
        with told(progress) as tell:
            result = role.result(await self.ask(role.rpc, role.request(batch, 0), self.attempts(timeout)))
            tell(len(batch), len(batch))
        return result

    def _most_at_once(self, fit: _Fit, batch: NDArray[np.uint8]) -> int:
        """How many images one call takes, as far as that is known."""
        limits = self.batches.limits(fit.model, fit.version)
        if limits is None:
            return _arrays.most_in_message(batch, self.most_bytes)
        return min(_arrays.most_in_message(batch, min(self.most_bytes, limits.max_message_bytes)), limits.max_images)

    async def _joined(
        self,
        role: Role[_Result],
        source: Source,
        timeout: float | None,
        progress: Progress,
        total: int | None = None,
    ) -> _Result:
        """The answers to the messages of a source as one; `total` is how many images they have, where that is known."""
        parts: AsyncGenerator[_Result]
        if isinstance(role, StreamedRole):
            parts = self._streamed(role, source, timeout)
        else:
            parts = self._in_turn(role, source, timeout)
        joining = Joining[_Result](total)
        with told(progress) as tell:
            async with aclosing(parts):
                async for part in parts:
                    tell(joining.add(part), total)
        if not joining.count:
            raise invalid("images", "is an iterator with nothing in it")
        return joining.result()

    async def _streamed(
        self, role: StreamedRole[_Result], source: Source, timeout: float | None
    ) -> AsyncGenerator[_Result]:
        answers = BulkAnswers(self.transport, source, role, self.attempts(timeout, rolling=True))
        try:
            while (part := await answers.next()) is not None:
                yield part
        finally:
            answers.cancel()

    async def _in_turn(self, role: Role[_Result], source: Source, timeout: float | None) -> AsyncGenerator[_Result]:
        """A call for each message, where the role has no stream."""
        first = version = 0
        while (message := await source.next()) is not END:
            batch = await source.fit(message)
            request = role.request(batch, first)
            request.version = version or request.version
            part = role.result(await self.ask(role.rpc, request, self.attempts(timeout)))
            first, version = first + len(batch), part.info.version
            yield part

    def bulk(
        self, role: StreamedRole[_Result], fit: _Fit, images: Images, message_size: int, timeout: float | None
    ) -> BulkAnswers[_Result]:
        source = self._source(images, _arguments.count_of("message_size", message_size), fit)
        return BulkAnswers(self.transport, source, role, self.attempts(timeout, rolling=True))

    def _source(self, images: Images, message_size: int, fit: _Fit) -> Source:
        return Source(images, message_size, fit, awaits=self.transport.awaits)

    async def ask(self, rpc: Rpc[_Request, _Reply], request: _Request, attempts: Attempts) -> _Reply:
        """The reply of a call with one, at whichever attempt."""
        while True:
            try:
                reply = await self._hedging.ask(self.transport, rpc, request, attempts.options)
            except grpc.RpcError as failed:
                await self.transport.sleep(attempts.pause(failed))
            else:
                attempts.answered()
                return reply

    def attempts(self, timeout: float | None, *, rolling: bool = False) -> Attempts:
        seconds = self.timeout if timeout is None else timeout
        return Attempts(self._server, seconds, self.transport.now, rolling=rolling)
