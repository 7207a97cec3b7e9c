"""The client that waits for its answers.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import inference_service_pb2
from ancestral_client import _channel, _checks, _wire
from ancestral_client._attempts import Attempts, Server, call
from ancestral_client._batches import Batches
from ancestral_client._checks import Priority
from ancestral_client._connection import Connection
from ancestral_client._models import ModelCalls
from ancestral_client._requests import Requests
from ancestral_client.bulk import MESSAGE_SIZE, BulkStream, Role, cut, size_of_messages
from ancestral_client.results import Classes, Decoding, Encoding, Features, Samples, Scores
from ancestral_client.stream import SampleStream

_Result = TypeVar("_Result", bound=Encoding | Scores)


class Client(ModelCalls):
    """Calls one Ancestral server, or several replicas behind one name. May be shared between threads.

    `timeout` is the deadline of every call in seconds, all its attempts together; each method takes another one for
    its call, and `math.inf` means none. A server that was there may be away, or too busy, for `retry_seconds`: calls
    are repeated until it answers, which changes nothing in what they return. One that never was there is asked for
    about a second.

    Images are uint8, 0 to 255: [N,H,W,C] or one image [H,W,C]; for a model with one channel also [N,H,W] and [H,W].
    Results always have the axis N. `version` 0 is the highest that is served. Class-conditional models, those whose
    `Model.label_count` is not 0, need labels to sample, score and extract features; others refuse them.

    `priority` is that of every call, `bulk_priority` that of the streams of encode and score. Interactive calls go
    first, and the server refuses one that would wait for long; "batch" takes what those leave over and may wait.

    `address` is HOST:PORT, or a target of gRPC such as dns:///replicas:8500. What is on this machine is reached without
    the proxy that `http_proxy` and the like may name, other hosts by it, unless `no_proxy` has them.

    A client can be pickled and copied, as joblib and scikit-learn do: the copy has the same settings, and a connection
    of its own. A forked process should make its own: gRPC's threads stay behind.

    Numbers may be of numpy, arrays also tensors (taken off their device and their graph) and Pillow's pictures. What is
    no whole number where one is needed is refused, never cut.

    Every method raises an AncestralError (see `ancestral_client.errors`); a wrong value is an InvalidArgument, whether
    the client finds it or the server does.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        *,
        timeout: float = 60.0,
        retry_seconds: float = 30.0,
        priority: Priority = "interactive",
        bulk_priority: Priority = "batch",
        max_message_bytes: int = _channel.MAX_MESSAGE_BYTES,
    ) -> None:
        _checks.timeout_of(timeout)
        max_message_bytes = _checks.message_bytes_of(max_message_bytes)
        self.address = _checks.address_of(address)
        self._server = Server(address, _checks.retry_seconds_of(retry_seconds))
        self.timeout = timeout
        self._settings: dict[str, Any] = {
            "retry_seconds": retry_seconds,
            "priority": priority,
            "bulk_priority": bulk_priority,
            "max_message_bytes": max_message_bytes,
        }
        super().__init__(Connection(address, max_message_bytes))
        batches = Batches(lambda name, version, timeout: self.model(name, version, timeout=timeout).image_shape)
        self._requests = Requests(batches, max_message_bytes, _checks.priority_of(priority))
        # Who sends a stream does not wait for each of its answers.
        self._bulk_requests = Requests(batches, max_message_bytes, _checks.priority_of(bulk_priority))

    def __getstate__(self) -> dict[str, Any]:
        """What made it, for pickle and deepcopy: whoever gets it connects anew."""
        return {"address": self.address, "timeout": self.timeout, **self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Client.__init__(self, **state)

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
        request = self._requests.sample(
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
        return _wire.samples(call(self._connection.inference.Sample, request, self._attempts(timeout)))

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
        sample = self._requests.sample(
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
        request = inference_service_pb2.SampleStreamRequest(
            sample=sample, progress=_checks.flag_of("progress", progress)
        )
        return SampleStream(self._connection.inference.SampleStream, request, self._attempts(timeout))

    def encode(
        self,
        model: str,
        images: ArrayLike,
        *,
        draw_seed: int | None = None,
        first_index: int = 0,
        version: int = 0,
        timeout: float | None = None,
    ) -> Encoding:
        """Mean and log-variance of q(z|x) for each image, [N,Z]; with `draw_seed` also one draw of z each.

        The draws are those at `first_index` to `first_index + N - 1` of the seed's sequence.
        """
        batch = self._requests.images(images, model, version, timeout)
        request = self._requests.encode(model, batch, draw_seed=draw_seed, first_index=first_index, version=version)
        return _wire.encoding(call(self._connection.inference.Encode, request, self._attempts(timeout)))

    def encode_stream(
        self,
        model: str,
        images: NDArray[np.uint8] | Iterable[ArrayLike],
        *,
        message_size: int = MESSAGE_SIZE,
        draw_seed: int | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> BulkStream[Encoding]:
        """`encode` of any number of images in one call, as fast as the model goes, in bounded memory.

        `images` is an array, which is sent in messages of `message_size` images (one may be a memory map of a file), or
        any iterable of arrays, each a message. There is one Encoding for each message, in order, and together they are
        what one `encode` would give. `timeout` is how long to wait for an answer, not for all. See `BulkStream` for
        what becomes of errors:

        >>> for part in client.encode_stream("digits-vae", images):  # doctest: +SKIP
        ...     part.mean  # [64,Z], of the last one perhaps fewer
        """
        # Here, so that what is wrong with it is told of the call and not of each message.
        draw_seed = None if draw_seed is None else _checks.seed_of("draw_seed", draw_seed)

        def request(batch: NDArray[np.uint8], first: int) -> Message:
            return self._bulk_requests.encode(model, batch, draw_seed=draw_seed, first_index=first, version=version)

        role = Role(
            "encode", self._connection.inference.EncodeStream, inference_service_pb2.EncodeStreamRequest, _wire.encoding
        )
        return self._bulk(role, request, model, images, message_size, version, timeout)

    def decode(
        self,
        model: str,
        latents: ArrayLike,
        *,
        include_variance: bool = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Decoding:
        """The image of each latent: `latents` is [N,Z] or one latent [Z], any real dtype, all finite.

        With `include_variance` also mean and variance of p(x|z), [N,H,W,C] float32, in units of bytes and of bytes
        squared; InvalidArgument where the model's decoder is no distribution.
        """
        request = self._requests.decode(model, latents, include_variance=include_variance, version=version)
        return _wire.decoding(call(self._connection.inference.Decode, request, self._attempts(timeout)))

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
        batch = self._requests.images(images, model, version, timeout)
        classes = _checks.labels_of(labels)
        request = self._requests.features(model, batch, include_map=include_map, labels=classes, version=version)
        return _wire.features(call(self._connection.inference.ExtractFeatures, request, self._attempts(timeout)))

    def classify(self, model: str, images: ArrayLike, *, version: int = 0, timeout: float | None = None) -> Classes:
        """Which class each image is of: logits and probabilities [N,K], and the most probable label [N]."""
        batch = self._requests.images(images, model, version, timeout)
        request = self._requests.classify(model, batch, version=version)
        return _wire.classes(call(self._connection.inference.Classify, request, self._attempts(timeout)))

    def score(
        self,
        model: str,
        images: ArrayLike,
        *,
        draws: int = 1,
        seed: int = 0,
        first_index: int = 0,
        labels: ArrayLike | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> Scores:
        """Log-likelihood in nats and bits per dimension of each image, [N].

        `labels` are the images' classes, [N] or one for all: a likelihood is that of the image given its class. Where
        the model gives only a lower bound, that needs draws of z: `seed` fixes them, from its `first_index` on, and
        `draws` says how many each bound is made of. The mean of bounds of one draw is the ELBO; those of more are
        importance-weighted, and rise towards the likelihood (Burda et al. 2016). An exact likelihood needs none.
        """
        draws = _checks.count_of("draws", draws)
        batch = self._requests.images(images, model, version, timeout)
        classes = _checks.labels_of(labels)
        request = self._requests.score(
            model, batch, seed=seed, first_index=first_index, labels=classes, draws=draws, version=version
        )
        return _wire.scores(call(self._connection.inference.Score, request, self._attempts(timeout)), draws)

    def score_stream(
        self,
        model: str,
        images: NDArray[np.uint8] | Iterable[ArrayLike],
        *,
        message_size: int | None = None,
        draws: int = 1,
        seed: int = 0,
        labels: ArrayLike | None = None,
        version: int = 0,
        timeout: float | None = None,
    ) -> BulkStream[Scores]:
        """`score` of any number of images in one call; as `encode_stream`. `labels`: one for all, or one per image.

        Unless `message_size` says otherwise a message holds 64 images, or fewer that together have as many draws.
        """
        classes, seed, draws = (
            _checks.labels_of(labels),
            _checks.seed_of("seed", seed),
            _checks.count_of("draws", draws),
        )
        size = size_of_messages(draws) if message_size is None else message_size

        def request(batch: NDArray[np.uint8], first: int) -> Message:
            own = classes[first : first + len(batch)] if classes is not None and len(classes) > 1 else classes
            return self._bulk_requests.score(
                model, batch, seed=seed, first_index=first, labels=own, draws=draws, version=version
            )

        role = Role(
            "score",
            self._connection.inference.ScoreStream,
            inference_service_pb2.ScoreStreamRequest,
            partial(_wire.scores, draws=draws),
        )
        return self._bulk(role, request, model, images, size, version, timeout)

    def _bulk(
        self,
        role: Role[_Result],
        request: Callable[[NDArray[np.uint8], int], Message],
        model: str,
        images: NDArray[np.uint8] | Iterable[ArrayLike],
        message_size: int,
        version: int,
        timeout: float | None,
    ) -> BulkStream[_Result]:
        model, version = _checks.name_of("model", model), _checks.version_of(version)

        def fit(batch: ArrayLike) -> NDArray[np.uint8]:
            return self._requests.images(batch, model, version, timeout)

        batches = cut(images, _checks.count_of("message_size", message_size), fit)
        return BulkStream(batches, fit, request, role, self._attempts(timeout, rolling=True))

    def _attempts(self, timeout: float | None, *, rolling: bool = False) -> Attempts:
        return Attempts(self._server, self.timeout if timeout is None else timeout, rolling=rolling)
