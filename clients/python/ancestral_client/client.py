"""The client that waits for its answers.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from ancestral.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from ancestral_client import _channel, _checks, _wire, errors
from ancestral_client._batches import Batches
from ancestral_client._checks import Priority
from ancestral_client.results import Decoding, Encoding, Features, Model, Samples, Scores
from ancestral_client.stream import SampleStream

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


class Client:
    """Calls one Ancestral server, or several replicas behind one name. May be shared between threads.

    `timeout` is the deadline of every call in seconds, all its attempts together; each method takes another one for
    its call, and `math.inf` means none. Calls that find nobody answering are tried four times within about a second.
    Images are uint8, 0 to 255: [N,H,W,C] or one image [H,W,C]; for a model with one channel also [N,H,W] and [H,W].
    Results always have the axis N. `version` 0 is the highest that is served. Class-conditional models, those whose
    `Model.label_count` is not 0, need labels to sample, score and extract features; others refuse them.

    `priority` is that of every call. An interactive one that would wait for long is an `Overloaded` at once, which
    says when to try again; with "batch" calls take what interactive ones leave over and may wait for long: for bulk.

    Every method raises an AncestralError (see `ancestral_client.errors`); a wrong value is an InvalidArgument, whether
    the client finds it or the server does.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        *,
        timeout: float = 60.0,
        priority: Priority = "interactive",
        max_message_bytes: int = _channel.MAX_MESSAGE_BYTES,
    ) -> None:
        _checks.timeout_of(timeout)
        self.address = address
        self.timeout = timeout
        self._priority = _checks.priority_of(priority)
        self._channel = _channel.open_channel(address, max_message_bytes)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._batches = Batches(lambda name, version, timeout: self.model(name, version, timeout=timeout).image_shape)

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version, including those that do not serve."""
        reply = self._call(self._models.ListModels, model_service_pb2.ListModelsRequest(), timeout)
        return [_wire.model(message) for message in reply.models]

    def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """What one model is and can do."""
        request = model_service_pb2.GetModelRequest(name=name, version=_checks.version_of(version))
        return _wire.model(self._call(self._models.GetModel, request, timeout).model)

    def sample(
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
        request = self._sample_request(
            model,
            n,
            seed=seed,
            first_index=first_index,
            temperature=temperature,
            label=label,
            given=given,
            known=known,
            version=version,
            timeout=timeout,
        )
        return _wire.samples(self._call(self._inference.Sample, request, timeout))

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
    ) -> SampleStream:
        """The images of `sample` with the same arguments, each as soon as it is finished, in that order.

        With `progress` also the rows of each image as they are painted, from models that paint row by row. `timeout`
        is that of the whole stream. To stop early, leave the loop, or better the `with` block of the stream:

        >>> with client.sample_stream("digits-pixelcnn", 16, seed=7) as events:  # doctest: +SKIP
        ...     first = next(events)
        """
        sample = self._sample_request(
            model,
            n,
            seed=seed,
            first_index=first_index,
            temperature=temperature,
            label=label,
            given=given,
            known=known,
            version=version,
            timeout=timeout,
        )
        request = inference_service_pb2.SampleStreamRequest(sample=sample, progress=progress)
        options, failure = self._options(timeout)
        return SampleStream(self._inference.SampleStream(request, **options), n, failure)

    def encode(
        self,
        model: str,
        images: ArrayLike,
        *,
        draw_seed: int | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Encoding:
        """Mean and log-variance of q(z|x) for each image, [N,Z]; with `draw_seed` also one draw of z each."""
        batch = self._batches.images("images", images, model, version, timeout)
        request = inference_service_pb2.EncodeRequest(
            model=model,
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            draw_seed=None if draw_seed is None else _checks.seed_of("draw_seed", draw_seed),
        )
        return _wire.encoding(self._call(self._inference.Encode, request, timeout))

    def decode(self, model: str, latents: ArrayLike, *, version: int = 0, timeout: float | None = None) -> Decoding:
        """The image of each latent: `latents` is [N,Z] or one latent [Z], any real dtype, all finite."""
        request = inference_service_pb2.DecodeRequest(
            model=model,
            version=_checks.version_of(version),
            priority=self._priority,
            latents=_wire.pack(_checks.latent_batch(latents)),
        )
        return _wire.decoding(self._call(self._inference.Decode, request, timeout))

    def features(
        self,
        model: str,
        images: ArrayLike,
        *,
        include_map: bool = False,
        labels: ArrayLike | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Features:
        """A hidden layer for each image, [N,F]; with `include_map` also the whole map [N,H',W',F'].

        `labels` are the images' classes, [N] or one for all.
        """
        batch = self._batches.images("images", images, model, version, timeout)
        request = inference_service_pb2.ExtractFeaturesRequest(
            model=model,
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            include_map=include_map,
            labels=None if labels is None else _checks.labels_of(labels),
        )
        return _wire.features(self._call(self._inference.ExtractFeatures, request, timeout))

    def score(
        self,
        model: str,
        images: ArrayLike,
        *,
        seed: int = 0,
        labels: ArrayLike | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Scores:
        """Log-likelihood in nats and bits per dimension of each image, [N].

        `labels` are the images' classes, [N] or one for all: a likelihood is that of the image given its class. Where
        the model gives only a lower bound, that needs draws: `seed` fixes them.
        """
        batch = self._batches.images("images", images, model, version, timeout)
        request = inference_service_pb2.ScoreRequest(
            model=model,
            version=_checks.version_of(version),
            priority=self._priority,
            images=_wire.pack(batch),
            seed=_checks.seed_of("seed", seed),
            labels=None if labels is None else _checks.labels_of(labels),
        )
        return _wire.scores(self._call(self._inference.Score, request, timeout))

    def _sample_request(
        self,
        model: str,
        n: int,
        *,
        seed: int | None,
        first_index: int,
        temperature: float | None,
        label: int | None,
        given: ArrayLike | None,
        known: ArrayLike | None,
        version: int,
        timeout: float | None,
    ) -> inference_service_pb2.SampleRequest:
        request = inference_service_pb2.SampleRequest(
            model=model,
            version=_checks.version_of(version),
            priority=self._priority,
            count=_checks.count_of(n),
            # Drawn here and not by the server, so that a call that is tried again asks for the same images.
            seed=secrets.randbits(63) if seed is None else _checks.seed_of("seed", seed),
            first_index=_checks.first_index_of(first_index),
            temperature=temperature,
            label=None if label is None else _checks.label_of("label", label),
        )
        if given is not None:
            request.given.CopyFrom(_wire.pack(self._batches.images("given", given, model, version, timeout)))
        if known is not None:
            request.known.CopyFrom(_wire.pack(self._batches.mask("known", known, model, version, timeout)))
        return request

    def _call(
        self, rpc: grpc.UnaryUnaryMultiCallable[_Request, _Reply], request: _Request, timeout: float | None
    ) -> _Reply:
        options, failure = self._options(timeout)
        try:
            return rpc(request, **options)
        except grpc.RpcError as error:
            raise failure(error) from None

    def _options(
        self, timeout: float | None
    ) -> tuple[dict[str, Any], Callable[[grpc.RpcError], errors.AncestralError]]:
        """What goes with every call, and what makes an exception of its failure."""
        seconds = self.timeout if timeout is None else timeout
        request_id = uuid.uuid4().hex  # ours, so that it is known even if no answer comes
        options = {"timeout": _checks.timeout_of(seconds), "metadata": (("x-request-id", request_id),)}
        return options, partial(errors.from_rpc, address=self.address, timeout=seconds, request_id=request_id)
