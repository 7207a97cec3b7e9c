"""What a fake server answers: requests of the wire to replies, by toy models. It refuses what a server refuses.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle.dtypes import DTYPES
from ancestral.v1 import bundle_pb2, model_service_pb2, tensor_pb2, timing_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _wire
from ancestral_client.errors import InvalidArgument, RoleNotSupported, invalid
from ancestral_client.testing.toys import ToyModel

_MAX_DRAWS, _MAX_TEMPERATURE = 5_000, 100.0
# What a reply needs beside its arrays.
_ENVELOPE_BYTES = 4096

Array = NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What one call may ask for, as `Model.limits` has it."""

    max_sample_count: int
    max_images: int
    max_message_bytes: int


@dataclass(frozen=True)
class Answering:
    """Answers the requests of one call to one model. `prefix` is their path in a stream's messages, as "encode."."""

    model: ToyModel
    limits: Limits
    info: timing_pb2.ReplyInfo
    prefix: str = ""

    def sample(self, request: pb.SampleRequest) -> pb.SampleResponse:
        drawn = list(self._drawn(request))
        bytes_of_image = math.prod(self.model.image_shape) + 4
        if len(drawn) * bytes_of_image > self.limits.max_message_bytes - _ENVELOPE_BYTES:
            raise self._invalid("count", f"asks for {len(drawn)} images, more than fits a reply")
        return pb.SampleResponse(
            info=self._info(len(drawn)),
            images=_wire.pack(np.stack([image for image, _ in drawn])),
            log_likelihood=_wire.pack(np.array([nats for _, nats in drawn], np.float32)),
            seed=request.seed,
            first_index=request.first_index,
        )

    def sample_stream(self, request: pb.SampleStreamRequest) -> Iterator[pb.SampleStreamResponse]:
        sample = request.sample
        for index, (image, nats) in enumerate(self._drawn(sample), sample.first_index):
            for row, pixels in enumerate(image) if request.progress else ():
                painted = pb.PaintedRow(index=index, row=row, pixels=_wire.pack(pixels))
                yield pb.SampleStreamResponse(info=self._info(1), row=painted)
            finished = pb.SampledImage(index=index, seed=sample.seed, image=_wire.pack(image), log_likelihood=nats)
            yield pb.SampleStreamResponse(info=self._info(1), image=finished)

    def encode(self, request: pb.EncodeRequest) -> pb.EncodeResponse:
        images = self._images(request.images)
        mean, log_variance = self.model.encode(images)
        reply = pb.EncodeResponse(
            info=self._info(len(images)), mean=_wire.pack(mean), log_variance=_wire.pack(log_variance)
        )
        if request.HasField("draw_seed"):
            reply.latent.CopyFrom(_wire.pack(self.model.latents(images, request.draw_seed, request.first_index)))
        return reply

    def decode(self, request: pb.DecodeRequest) -> pb.DecodeResponse:
        latents = self._batch("latents", request.latents, np.float32, (self.model.latent_size,))
        mean, variance = self.model.decode(latents)
        reply = pb.DecodeResponse(info=self._info(len(latents)), images=_wire.pack(np.rint(mean).astype(np.uint8)))
        if request.include_variance:
            reply.mean.CopyFrom(_wire.pack(mean))
            reply.variance.CopyFrom(_wire.pack(variance))
        return reply

    def features(self, request: pb.ExtractFeaturesRequest) -> pb.ExtractFeaturesResponse:
        images = self._images(request.images)
        hidden, whole = self.model.features(images, self._labels(request.labels, len(images)))
        reply = pb.ExtractFeaturesResponse(info=self._info(len(images)), features=_wire.pack(hidden))
        if request.include_map:
            reply.feature_map.CopyFrom(_wire.pack(whole))
        return reply

    def classify(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        images = self._images(request.images)
        logits = self.model.classify(images)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return pb.ClassifyResponse(
            info=self._info(len(images)),
            logits=_wire.pack(logits),
            probabilities=_wire.pack(chances),
            labels=logits.argmax(axis=1),
            class_names=self.model.class_names,
        )

    def score(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        images = self._images(request.images)
        draws = request.draws if request.HasField("draws") else 1
        if not 1 <= draws <= (1 if self.model.exact else _MAX_DRAWS):
            most = "unset or 1: the model's likelihood is exact" if self.model.exact else f"1 to {_MAX_DRAWS}"
            raise self._invalid("draws", f"is {draws}, must be {most}")
        labels = self._labels(request.labels, len(images))
        nats = self.model.score(images, labels, request.seed, request.first_index, draws)
        bits = (-nats / (self.model.pixels * math.log(2))).astype(np.float32)
        exact = self.model.exact
        return pb.ScoreResponse(
            info=self._info(len(images)),
            log_likelihood=_wire.pack(nats),
            bits_per_dim=_wire.pack(bits),
            likelihood=bundle_pb2.LIKELIHOOD_EXACT if exact else bundle_pb2.LIKELIHOOD_LOWER_BOUND,
            draws=0 if exact else draws,
        )

    def _drawn(self, request: pb.SampleRequest) -> Iterator[tuple[Array, float]]:
        count, most = request.count, self.limits.max_sample_count
        if not 1 <= count <= most:
            raise self._invalid("count", f"is {count}, must be 1 to {most}")
        temperature = request.temperature if request.HasField("temperature") else 1.0
        if not 0 <= temperature <= _MAX_TEMPERATURE:
            raise self._invalid("temperature", f"is {temperature}, must be 0 to {_MAX_TEMPERATURE:g}")
        (label,) = self._labels([request.label] if request.HasField("label") else [], 1, "label")
        given = known = None
        if request.HasField("given") or request.HasField("known"):
            given = self._completion("given", request.given, count, np.uint8)
            known = self._completion("known", request.known, count, np.bool_)
        for i in range(count):
            kept = (None, None) if given is None or known is None else (given[i], known[i])
            yield self.model.sample(request.seed, request.first_index + i, temperature, label, *kept)

    def _completion(self, field: str, tensor: tensor_pb2.Tensor, count: int, dtype: Any) -> Array:
        if not tensor.dtype:
            raise self._invalid(field, "is not set: a completion needs given and known")
        array = self._batch(field, tensor, dtype, self.model.image_shape)
        if len(array) not in (1, count):
            raise self._invalid(f"{field}.shape", f"has N = {len(array)}, must be 1 or count = {count}")
        return np.broadcast_to(array, (count, *array.shape[1:]))

    def _images(self, tensor: tensor_pb2.Tensor) -> Array:
        return self._batch("images", tensor, np.uint8, self.model.image_shape)

    def _batch(self, field: str, tensor: tensor_pb2.Tensor, dtype: Any, shape: tuple[int, ...]) -> Array:
        """The array [N, *shape] of a tensor."""
        if DTYPES.get(tensor.dtype) != np.dtype(dtype):
            raise self._invalid(f"{field}.dtype", f"is not {np.dtype(dtype)}")
        found, most = tuple(tensor.shape), self.limits.max_images
        if found[1:] != shape or not found:
            raise self._invalid(f"{field}.shape", f"is {list(found)}, must be {['N', *shape]} with 1 <= N <= {most}")
        if not 1 <= found[0] <= most:
            raise self._invalid(f"{field}.shape", f"has N = {found[0]}, must be 1 to {most}")
        return _wire.unpack(tensor)

    def _labels(self, values: Any, count: int, field: str = "labels") -> Array:
        """Classes [N]; zeros for a model that has none."""
        classes, labels = self.model.label_count, np.array(list(values), np.int64)
        if not classes:
            if len(labels):
                raise self._invalid(field, "must be unset: the model is not class-conditional")
            return np.zeros(count, np.int64)
        if len(labels) not in (1, count):
            raise self._invalid(field, f"holds {len(labels)} classes, must hold 1 or {count}, each 0 to {classes - 1}")
        if labels.min() < 0 or labels.max() >= classes:
            raise self._invalid(field, f"is {labels.tolist()}, must be 0 to {classes - 1}")
        return np.resize(labels, count)

    def _info(self, images: int) -> timing_pb2.ReplyInfo:
        info = timing_pb2.ReplyInfo()
        info.CopyFrom(self.info)
        info.timing.batch_size = images
        return info

    def _invalid(self, field: str, problem: str) -> InvalidArgument:
        return invalid(f"{self.prefix}{field}", problem)


def described(model: ToyModel, limits: Limits, *, serving: bool) -> model_service_pb2.Model:
    """What a server says of a model."""
    height, width, channels = model.image_shape
    states = model_service_pb2
    message = model_service_pb2.Model(
        name=model.name,
        version=model.version,
        state=states.MODEL_STATE_SERVING if serving else states.MODEL_STATE_NOT_SERVING,
        reason="" if serving else "unloaded on request",
        device="cpu" if serving else "",
        bundle=bundle_pb2.Bundle(
            schema=1,
            name=model.name,
            version=model.version,
            family="toy",
            description="Made-up numbers for tests.",
            image=bundle_pb2.ImageSpec(height=height, width=width, channels=channels, levels=model.levels),
            latent_size=model.latent_size if model.has_latents else 0,
            label_count=model.label_count,
            roles=[bundle_pb2.Role(name=role) for role in model.roles],
            class_names=model.class_names if "classify" in model.roles else (),
        ),
    )
    if serving:
        message.limits.max_sample_count = limits.max_sample_count if "sample" in model.roles else 0
        message.limits.max_images = limits.max_images
        message.limits.max_temperature = _MAX_TEMPERATURE
        message.limits.max_message_bytes = limits.max_message_bytes
    return message


def missing(model: ToyModel, role: str) -> RoleNotSupported:
    can = ", ".join(sorted(model.roles))
    return RoleNotSupported(f"model {model.name} (version {model.version}) has no role {role!r}; it has {can}")
