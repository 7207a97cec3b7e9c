"""The client that waits for its answers.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions, F features.
"""

from __future__ import annotations

import math
import secrets
import uuid
from types import TracebackType
from typing import Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from ancestral_client import _channel, _checks, _wire, errors
from ancestral_client.results import Decoding, Encoding, Features, Model, Samples, Scores

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


class Client:
    """Calls one Ancestral server, or several replicas behind one name. May be shared between threads.

    `timeout` is the deadline of every call in seconds, all its attempts together; each method takes another one for
    its call, and `math.inf` means none. Calls that find nobody answering are tried four times within about a second.
    Images are uint8, 0 to 255: [N,H,W,C] or one image [H,W,C]; for a model with one channel also [N,H,W] and [H,W].
    Results always have the axis N. `version` 0 is the highest that is served.

    Every method raises an AncestralError (see `ancestral_client.errors`); a wrong value is an InvalidArgument, whether
    the client finds it or the server does.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        *,
        timeout: float = 60.0,
        max_message_bytes: int = _channel.MAX_MESSAGE_BYTES,
    ) -> None:
        _checks.timeout_of(timeout)
        self.address = address
        self.timeout = timeout
        self._channel = _channel.open_channel(address, max_message_bytes)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._shapes: dict[tuple[str, int], tuple[int, int, int]] = {}

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
        version: int = 0,
        timeout: float | None = None,
    ) -> Samples:
        """Draws `n` images: those at `first_index` to `first_index + n - 1` of the seed's sequence.

        The same model, version, seed and index always give the same bytes, alone or in any batch. Without `seed` one is
        drawn, and comes back in the result. `temperature` 1 is the model itself, 0 asks for the most likely value of
        each pixel.
        """
        if not 1 <= n < 2**31:
            raise errors.invalid("count", f"is {n}; must be at least 1")
        if not 0 <= first_index < 2**63:
            raise errors.invalid("first_index", f"is {first_index}; must be 0 to 2^63 - 1")
        request = inference_service_pb2.SampleRequest(
            model=model,
            version=_checks.version_of(version),
            count=n,
            # Drawn here and not by the server, so that a call that is tried again asks for the same images.
            seed=secrets.randbits(63) if seed is None else _checks.seed_of("seed", seed),
            first_index=first_index,
            temperature=temperature,
        )
        return _wire.samples(self._call(self._inference.Sample, request, timeout))

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
        batch = self._image_batch(model, images, version, timeout)
        request = inference_service_pb2.EncodeRequest(
            model=model,
            version=_checks.version_of(version),
            images=_wire.pack(batch),
            draw_seed=None if draw_seed is None else _checks.seed_of("draw_seed", draw_seed),
        )
        return _wire.encoding(self._call(self._inference.Encode, request, timeout))

    def decode(self, model: str, latents: ArrayLike, *, version: int = 0, timeout: float | None = None) -> Decoding:
        """The image of each latent: `latents` is [N,Z] or one latent [Z], any real dtype, all finite."""
        request = inference_service_pb2.DecodeRequest(
            model=model, version=_checks.version_of(version), latents=_wire.pack(_checks.latent_batch(latents))
        )
        return _wire.decoding(self._call(self._inference.Decode, request, timeout))

    def features(
        self,
        model: str,
        images: ArrayLike,
        *,
        include_map: bool = False,
        version: int = 0,
        timeout: float | None = None,
    ) -> Features:
        """A hidden layer for each image, [N,F]; with `include_map` also the whole map [N,H',W',F']."""
        batch = self._image_batch(model, images, version, timeout)
        request = inference_service_pb2.ExtractFeaturesRequest(
            model=model, version=_checks.version_of(version), images=_wire.pack(batch), include_map=include_map
        )
        return _wire.features(self._call(self._inference.ExtractFeatures, request, timeout))

    def score(
        self, model: str, images: ArrayLike, *, seed: int = 0, version: int = 0, timeout: float | None = None
    ) -> Scores:
        """Log-likelihood in nats and bits per dimension of each image, [N].

        Where the model gives only a lower bound, that needs draws: `seed` fixes them.
        """
        batch = self._image_batch(model, images, version, timeout)
        request = inference_service_pb2.ScoreRequest(
            model=model,
            version=_checks.version_of(version),
            images=_wire.pack(batch),
            seed=_checks.seed_of("seed", seed),
        )
        return _wire.scores(self._call(self._inference.Score, request, timeout))

    def _image_batch(self, model: str, images: ArrayLike, version: int, timeout: float | None) -> NDArray[np.uint8]:
        """`images` as [N,H,W,C], checked against the model's shape, which is asked for once per model."""
        array = _checks.image_array(images)
        known = self._shapes.get((model, version))
        batch = None if known is None else _checks.image_batch(array, known)
        if batch is None:
            # First use, or a newer version of the model may take other images.
            shape = self.model(model, version, timeout=timeout).image_shape
            if math.prod(shape) > 0:  # a version whose manifest could not be read has no shape; the call says why
                self._shapes[model, version] = shape
                batch = _checks.image_batch(array, shape)
                if batch is None:
                    raise _checks.wrong_shape(array, shape, model)
        return array if batch is None else batch

    def _call(
        self, rpc: grpc.UnaryUnaryMultiCallable[_Request, _Reply], request: _Request, timeout: float | None
    ) -> _Reply:
        seconds = self.timeout if timeout is None else timeout
        request_id = uuid.uuid4().hex  # ours, so that it is known even if no answer comes
        try:
            return rpc(request, timeout=_checks.timeout_of(seconds), metadata=(("x-request-id", request_id),))
        except grpc.RpcError as error:
            raise errors.from_rpc(error, address=self.address, timeout=seconds, request_id=request_id) from None
