"""What the calls of a client mean, written once: `Client` runs these coroutines, `AsyncClient` awaits them.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2 as models_pb
from ancestral_client import _checks, _rpcs, _wire, paths
from ancestral_client._access import Access, Entry
from ancestral_client._attempts import Attempts, Server
from ancestral_client._batches import Batches
from ancestral_client._checks import Priority
from ancestral_client._hedging import Hedging
from ancestral_client._joining import Joining
from ancestral_client._progress import Progress, told
from ancestral_client._requests import Requests
from ancestral_client._rpcs import Rpc
from ancestral_client._transport import Transport
from ancestral_client.bulk import END, MESSAGE_SIZE, BulkAnswers, Role, Source, StreamedRole, as_it_is, size_of_messages
from ancestral_client.errors import invalid
from ancestral_client.results import Classes, Decoding, Encoding, Features, Model, Samples, Scores
from ancestral_client.stream import SampleEvents

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
    """The calls of a client over its transport."""

    def __init__(self, settings: Settings, transport: Callable[[str, int, Entry], Transport]) -> None:
        _checks.timeout_of(settings.timeout)
        self._most_bytes = _checks.message_bytes_of(settings.max_message_bytes)
        address = _checks.address_of(settings.address)
        entry = Entry(settings.access, address)
        self._server = Server(address, _checks.retry_seconds_of(settings.retry_seconds), entry.metadata)
        self._requests = Requests(self._most_bytes, _checks.priority_of(settings.priority))
        # Who sends a stream does not wait for each of its answers.
        self._bulk_requests = Requests(self._most_bytes, _checks.priority_of(settings.bulk_priority))
        self.timeout = settings.timeout
        self._batches = Batches(lambda name, version, timeout: self.model(name, version, timeout=timeout))
        self._hedging = Hedging(_checks.hedge_seconds_of(settings.hedge_seconds))
        self._transport = transport(address, self._most_bytes, entry)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._transport.close()

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version, including those that do not serve.

        `timeout` is that of all pages together, where they are more than fits one answer.
        """
        attempts, request = self._attempts(timeout), models_pb.ListModelsRequest()
        found: list[Model] = []
        while True:
            reply = await self._ask(_rpcs.LIST_MODELS, request, attempts)
            found += map(_wire.model, reply.models)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """What one model is and can do."""
        request = models_pb.GetModelRequest(name=_checks.name_of("name", name), version=_checks.version_of(version))
        return _wire.model((await self._ask(_rpcs.GET_MODEL, request, self._attempts(timeout))).model)

    async def load(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """Has a version loaded, or loaded anew, from the server's folder: the highest there unless `version` says.

        Returns when it serves; a BundleRefused leaves what served before in place.
        """
        request = models_pb.LoadModelRequest(name=_checks.name_of("name", name), version=_checks.version_of(version))
        return _wire.model((await self._ask(_rpcs.LOAD_MODEL, request, self._attempts(timeout))).model)

    async def unload(self, name: str, version: int = 0, *, timeout: float | None = None) -> None:
        """Has a version taken out of service, or all of them; returns when their running calls have ended."""
        request = models_pb.UnloadModelRequest(name=_checks.name_of("name", name), version=_checks.version_of(version))
        await self._ask(_rpcs.UNLOAD_MODEL, request, self._attempts(timeout))

    async def sample(
        self,
        model: str,
        n: int,
        *,
        seed: int | None = None,
        first_index: int = 0,
        temperature: float | None = None,
        label: int | None = None,
        given: ArrayLike | None = None,
        known: ArrayLike | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Samples:
        """Draws `n` images: those at `first_index` to `first_index + n - 1` of the seed's sequence.

        The same model, version, seed and index always give the same bytes, alone or in any batch. Without `seed` one is
        drawn, and comes back in the result. `temperature` 1 is the model itself, 0 asks for the most likely value of
        each pixel. `label` is the class to draw from.

        `given` and `known` complete images: where the bool mask `known` is True the pixels of `given` stay, the others
        are drawn. Each is one for all samples or [n,H,W,C]; the mask may lack the channels. A pixel is conditioned on
        what comes before it in raster order, so keep the top and draw the bottom rather than the other way round.
        """
        request = self._requests.sample(
            model, n, seed=seed, first_index=first_index, temperature=temperature, label=label, version=version
        )
        await self._complete(request, given, known, timeout)
        return _wire.samples(await self._ask(_rpcs.SAMPLE, request, self._attempts(timeout)))

    def sample_stream(
        self,
        model: str,
        n: int,
        *,
        seed: int | None = None,
        first_index: int = 0,
        temperature: float | None = None,
        label: int | None = None,
        given: ArrayLike | None = None,
        known: ArrayLike | None = None,
        progress: bool = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> SampleEvents:
        """The images of `sample` with the same arguments, each as soon as it is finished, in that order.

        With `progress` also the rows of each image as they are painted, from models that paint row by row. `timeout`
        is that of the whole stream. To stop early, leave the loop, or better the `with` block of the stream (`async
        with` and `async for` of an AsyncClient's):

        >>> with client.sample_stream("digits-pixelcnn", 16, seed=7) as events:  # doctest: +SKIP
        ...     first = next(events)
        """
        sample = self._requests.sample(
            model, n, seed=seed, first_index=first_index, temperature=temperature, label=label, version=version
        )
        request = pb.SampleStreamRequest(sample=sample, progress=_checks.flag_of("progress", progress))

        def fitted(sample: pb.SampleRequest) -> Awaitable[None]:
            return self._complete(sample, given, known, timeout)

        return SampleEvents(self._transport, request, fitted, self._attempts(timeout))

    async def complete(
        self,
        model: str,
        given: ArrayLike,
        known: ArrayLike,
        n: int | None = None,
        *,
        seed: int | None = None,
        first_index: int = 0,
        temperature: float | None = None,
        label: int | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Samples:
        """Fills in the missing pixels of images: those of `given` where the bool mask `known` is False.

        `given` is one image, completed in `n` ways, or [N,H,W,C], each completed once. Otherwise as `sample`.
        """
        name, number = _checks.name_of("model", model), _checks.version_of(version)
        given = await self._batches.images("given", given, name, number, timeout)
        return await self.sample(
            model,
            len(given) if n is None else n,
            seed=seed,
            first_index=first_index,
            temperature=temperature,
            label=label,
            given=given,
            known=known,
            version=version,
            timeout=timeout,
        )

    async def encode(
        self,
        model: str,
        images: Images,
        *,
        draw_seed: int | None = None,
        first_index: int = 0,
        scale: float | None = None,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Encoding:
        """Mean and log-variance of q(z|x) for each image, [N,Z]; with `draw_seed` also one draw of z each.

        The draws are those at `first_index` to `first_index + N - 1` of the seed's sequence. Images are uint8, 0 to
        255; with `scale` any real numbers, which times that are these levels: `scale=255` for images in [0,1].

        More images than one call takes, or an iterator of arrays, are sent as `encode_stream` does, in order and in
        bounded memory; `timeout` is then that of each answer.

        `progress` shows a bar on stderr, in a terminal or a notebook; or it is a function, called with how many images
        are done and of how many, None where that is not known. Images are then sent in messages as those of a stream.
        """
        role = self._encoding(self._requests, model, draw_seed, first_index, version)
        return await self._whole(role, self._fit(model, scale, version, timeout), images, timeout, progress)

    def encode_stream(
        self,
        model: str,
        images: Images,
        *,
        message_size: int = MESSAGE_SIZE,
        draw_seed: int | None = None,
        scale: float | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> BulkAnswers[Encoding]:
        """`encode` of any number of images in one call, as fast as the model goes, in bounded memory.

        `images` is an array, which is sent in messages of `message_size` images (one may be a memory map of a file), or
        any iterable of arrays, each a message. There is one Encoding for each message, in order, and together they are
        what one `encode` would give. `timeout` is how long to wait for an answer, not for all. See `BulkStream` for
        what becomes of errors. Of an AsyncClient it is an `async for`:

        >>> for part in client.encode_stream("digits-vae", images):  # doctest: +SKIP
        ...     part.mean  # [64,Z], of the last one perhaps fewer
        """
        role = self._encoding(self._bulk_requests, model, draw_seed, 0, version)
        return self._bulk(role, self._fit(model, scale, version, timeout), images, message_size, timeout)

    async def decode(
        self,
        model: str,
        latents: ArrayLike,
        *,
        include_variance: bool = False,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """The image of each latent: `latents` is [N,Z] or one latent [Z], any real dtype, all finite.

        With `include_variance` also mean and variance of p(x|z), [N,H,W,C] float32, in units of bytes and of bytes
        squared; InvalidArgument where the model's decoder is no distribution. More latents than one call takes are
        decoded in several. `progress` as in `encode`.
        """
        variance = _checks.flag_of("include_variance", include_variance)
        name, number = _checks.name_of("model", model), _checks.version_of(version)
        batch = _checks.latent_batch(latents)

        def request(part: NDArray[np.float32], first: int) -> pb.DecodeRequest:
            return self._requests.decode(name, part, include_variance=variance, version=number)

        role = Role("decode", _rpcs.DECODE, request, _wire.decoding)
        pixel_bytes = 9 if variance else 1  # a byte, and two floats
        _checks.progress_of(progress)
        most = await self._most_decoded(name, number, batch, pixel_bytes, timeout)
        size = min(most, MESSAGE_SIZE) if progress else most
        return await self._answered(role, batch, most, size, timeout, progress)

    async def features(
        self,
        model: str,
        images: Images,
        *,
        include_map: bool = False,
        labels: ArrayLike | None = None,
        scale: float | None = None,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Features:
        """A hidden layer for each image, [N,F]; with `include_map` also the whole map [N,H',W',F'].

        `labels` are the images' classes, [N] or one for all. `scale`, `progress`, and more images than one call takes,
        as in `encode`.
        """
        classes = _checks.labels_of(labels)
        include_map = _checks.flag_of("include_map", include_map)

        def request(batch: NDArray[np.uint8], first: int) -> pb.ExtractFeaturesRequest:
            own = _of_part(classes, first, len(batch))
            return self._requests.features(model, batch, include_map=include_map, labels=own, version=version)

        role = Role("features", _rpcs.FEATURES, request, _wire.features)
        return await self._whole(role, self._fit(model, scale, version, timeout), images, timeout, progress)

    async def classify(
        self,
        model: str,
        images: Images,
        *,
        scale: float | None = None,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Classes:
        """Which class each image is of: logits and probabilities [N,K], and the most probable label [N].

        `scale`, `progress`, and more images than one call takes, as in `encode`.
        """

        def request(batch: NDArray[np.uint8], first: int) -> pb.ClassifyRequest:
            return self._requests.classify(model, batch, version=version)

        role = Role("classify", _rpcs.CLASSIFY, request, _wire.classes)
        return await self._whole(role, self._fit(model, scale, version, timeout), images, timeout, progress)

    async def score(
        self,
        model: str,
        images: Images,
        *,
        draws: int = 1,
        seed: int = 0,
        first_index: int = 0,
        labels: ArrayLike | None = None,
        scale: float | None = None,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Scores:
        """Log-likelihood in nats and bits per dimension of each image, [N].

        `labels` are the images' classes, [N] or one for all: a likelihood is that of the image given its class. Where
        the model gives only a lower bound, that needs draws of z: `seed` fixes them, from its `first_index` on, and
        `draws` says how many each bound is made of. The mean of bounds of one draw is the ELBO; those of more are
        importance-weighted, and rise towards the likelihood (Burda et al. 2016). An exact likelihood needs none.

        `scale`, `progress`, and more images than one call takes, as in `encode`.
        """
        role = self._scoring(self._requests, model, draws, seed, first_index, labels, version)
        return await self._whole(role, self._fit(model, scale, version, timeout), images, timeout, progress)

    def score_stream(
        self,
        model: str,
        images: Images,
        *,
        message_size: int | None = None,
        draws: int = 1,
        seed: int = 0,
        labels: ArrayLike | None = None,
        scale: float | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> BulkAnswers[Scores]:
        """`score` of any number of images in one call; as `encode_stream`. `labels`: one for all, or one per image.

        Unless `message_size` says otherwise a message holds 64 images, or fewer that together have as many draws.
        """
        role = self._scoring(self._bulk_requests, model, draws, seed, 0, labels, version)
        size = role.message_size if message_size is None else message_size
        return self._bulk(role, self._fit(model, scale, version, timeout), images, size, timeout)

    async def reconstruct(
        self,
        model: str,
        images: ArrayLike,
        *,
        scale: float | None = None,
        progress: Progress = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """What a model makes of images by way of its latents: `decode` of the means of `encode`, [N,H,W,C].

        `timeout` is that of each of the two calls; `progress` tells of each image when it is decoded.
        """
        _checks.progress_of(progress)
        posterior = await self.encode(model, images, scale=scale, version=version, timeout=timeout)
        return await self.decode(
            model, posterior.mean, progress=progress, version=posterior.info.version, timeout=timeout
        )

    async def interpolate(
        self,
        model: str,
        first: ArrayLike,
        last: ArrayLike,
        *,
        steps: int = 8,
        path: Literal["spherical", "linear"] = "spherical",
        scale: float | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """The way from one image to another, through their latents: `steps` images [steps,H,W,C], both ends included.

        The latents of a normal prior lie near a sphere; "spherical" stays at the ends' distance from 0, "linear" cuts
        through the inside. `timeout` is that of each of the three calls.
        """
        steps, curve = _checks.steps_of(steps), paths.curve(path)
        begin = await self._one_latent("first", model, first, scale, version, timeout)
        end = await self._one_latent("last", model, last, scale, begin.info.version, timeout)
        between = curve(begin.mean[0], end.mean[0], steps)
        return await self.decode(model, between, version=begin.info.version, timeout=timeout)

    async def traverse(
        self,
        model: str,
        image: ArrayLike,
        dimension: int,
        *,
        steps: int = 8,
        span: float = 3.0,
        scale: float | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """What one latent dimension means for an image: [steps,H,W,C], with it going from -`span` to `span`.

        `dimension` is 0 to Z - 1; the others stay as `encode` has them. `span` is in standard deviations of the prior.
        """
        steps, span = _checks.steps_of(steps), _checks.span_of(span)
        posterior = await self._one_latent("image", model, image, scale, version, timeout)
        along = paths.along(posterior.mean[0], dimension, steps, span)
        return await self.decode(model, along, version=posterior.info.version, timeout=timeout)

    async def manifold(
        self,
        model: str,
        *,
        steps: int = 16,
        dimensions: tuple[int, int] = (0, 1),
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """The plane of two latent dimensions as images, [steps · steps,H,W,C], row by row: see `Decoding.grid`.

        Each row and each column is as likely as the others: the points are quantiles of the normal prior. The first
        dimension grows to the right, the second downwards; all others are 0.
        """
        steps = _checks.steps_of(steps, most=100)  # of each row and each column
        found = await self.model(_checks.name_of("model", model), version, timeout=timeout)
        plane = paths.plane(found.latent_size, dimensions, steps)
        return await self.decode(model, plane, version=found.version, timeout=timeout)

    async def _one_latent(
        self, field: str, model: str, image: ArrayLike, scale: float | None, version: int, timeout: float | None
    ) -> Encoding:
        """The encoding of one image; InvalidArgument, about `field`, if there are more."""
        name, number = _checks.name_of("model", model), _checks.version_of(version)
        batch = await self._batches.images(field, image, name, number, timeout, scale)
        if len(batch) != 1:
            raise invalid(field, f"has {len(batch)} images; must be one")
        return await self.encode(model, batch, version=version, timeout=timeout)

    def _encoding(
        self, requests: Requests, model: str, draw_seed: int | None, first_index: int, version: int
    ) -> StreamedRole[Encoding]:
        # Here, so that what is wrong with it is told of the call and not of each message.
        draw_seed = None if draw_seed is None else _checks.seed_of("draw_seed", draw_seed)
        begin = _checks.first_index_of(first_index)

        def request(batch: NDArray[np.uint8], first: int) -> pb.EncodeRequest:
            return requests.encode(model, batch, draw_seed=draw_seed, first_index=begin + first, version=version)

        return StreamedRole(
            "encode", _rpcs.ENCODE, request, _wire.encoding, _rpcs.ENCODE_STREAM, pb.EncodeStreamRequest
        )

    def _scoring(
        self,
        requests: Requests,
        model: str,
        draws: int,
        seed: int,
        first_index: int,
        labels: ArrayLike | None,
        version: int,
    ) -> StreamedRole[Scores]:
        draws = _checks.count_of("draws", draws)
        classes, seed = _checks.labels_of(labels), _checks.seed_of("seed", seed)
        begin = _checks.first_index_of(first_index)

        def request(batch: NDArray[np.uint8], first: int) -> pb.ScoreRequest:
            own = _of_part(classes, first, len(batch))
            return requests.score(
                model, batch, seed=seed, first_index=begin + first, labels=own, draws=draws, version=version
            )

        return StreamedRole(
            "score",
            _rpcs.SCORE,
            request,
            partial(_wire.scores, draws=draws),
            _rpcs.SCORE_STREAM,
            pb.ScoreStreamRequest,
            message_size=size_of_messages(draws),
        )

    def _fit(self, model: str, scale: float | None, version: int, timeout: float | None) -> _Fit:
        return _Fit(self._batches, _checks.name_of("model", model), _checks.version_of(version), scale, timeout)

    async def _complete(
        self, request: pb.SampleRequest, given: ArrayLike | None, known: ArrayLike | None, timeout: float | None
    ) -> None:
        """Adds the images to complete to a request."""
        model, version = request.model, request.version
        if given is not None:
            request.given.CopyFrom(_wire.pack(await self._batches.images("given", given, model, version, timeout)))
        if known is not None:
            request.known.CopyFrom(_wire.pack(await self._batches.mask("known", known, model, version, timeout)))

    async def _whole(
        self, role: Role[_Result], fit: _Fit, images: Images, timeout: float | None, progress: Progress
    ) -> _Result:
        """The answer for all images, in as many calls or messages as it takes."""
        _checks.progress_of(progress)
        if isinstance(images, Iterator | AsyncIterable):
            return await self._joined(role, self._source(images, role.message_size, fit), timeout, progress)
        batch = await fit(images)
        await self._batches.check_role(role.name, fit.model, fit.version, timeout)
        most = self._most_at_once(fit, batch)
        return await self._answered(role, batch, most, min(most, role.message_size), timeout, progress)

    async def _answered(
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
            result = role.result(await self._ask(role.rpc, role.request(batch, 0), self._attempts(timeout)))
            tell(len(batch), len(batch))
        return result

    def _most_at_once(self, fit: _Fit, batch: NDArray[np.uint8]) -> int:
        """How many images one call takes, as far as that is known."""
        limits = self._batches.limits(fit.model, fit.version)
        if limits is None:
            return _checks.most_in_message(batch, self._most_bytes)
        return min(_checks.most_in_message(batch, min(self._most_bytes, limits.max_message_bytes)), limits.max_images)

    async def _most_decoded(
        self, model: str, version: int, latents: NDArray[np.float32], pixel_bytes: int, timeout: float | None
    ) -> int:
        """How many latents one call takes, by their number and the size of their images."""
        if len(latents) <= MESSAGE_SIZE:
            return MESSAGE_SIZE
        found = await self.model(model, version, timeout=timeout)
        if found.limits is None:
            return len(latents)
        image_bytes: int = max(math.prod(found.image_shape) * pixel_bytes, latents[0].nbytes)
        most_bytes = min(self._most_bytes, found.limits.max_message_bytes) // 2  # leaves room for all but the images
        return max(1, min(found.limits.max_images, most_bytes // image_bytes))

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
        answers = BulkAnswers(self._transport, source, role, self._attempts(timeout, rolling=True))
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
            part = role.result(await self._ask(role.rpc, request, self._attempts(timeout)))
            first, version = first + len(batch), part.info.version
            yield part

    def _bulk(
        self, role: StreamedRole[_Result], fit: _Fit, images: Images, message_size: int, timeout: float | None
    ) -> BulkAnswers[_Result]:
        source = self._source(images, _checks.count_of("message_size", message_size), fit)
        return BulkAnswers(self._transport, source, role, self._attempts(timeout, rolling=True))

    def _source(self, images: Images, message_size: int, fit: _Fit) -> Source:
        return Source(images, message_size, fit, awaits=self._transport.awaits)

    async def _ask(self, rpc: Rpc[_Request, _Reply], request: _Request, attempts: Attempts) -> _Reply:
        """The reply of a call with one, at whichever attempt."""
        while True:
            try:
                reply = await self._hedging.ask(self._transport, rpc, request, attempts.options)
            except grpc.RpcError as failed:
                await self._transport.sleep(attempts.pause(failed))
            else:
                attempts.answered()
                return reply

    def _attempts(self, timeout: float | None, *, rolling: bool = False) -> Attempts:
        seconds = self.timeout if timeout is None else timeout
        return Attempts(self._server, seconds, self._transport.now, rolling=rolling)


def _of_part(labels: list[int] | None, first: int, count: int) -> list[int] | None:
    """The labels of a part of the images; one that is for all is for each part."""
    return labels[first : first + count] if labels is not None and len(labels) > 1 else labels
