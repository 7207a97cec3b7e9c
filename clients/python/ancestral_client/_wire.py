"""Arrays to protos and back, and the checks that need no server. Pure: no channel, no state.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import bundle_pb2, inference_service_pb2, model_service_pb2, tensor_pb2, timing_pb2
from ancestral_client.errors import InvalidArgument, invalid
from ancestral_client.results import (
    Decoding,
    Encoding,
    Features,
    Info,
    Limits,
    Metric,
    Model,
    Samples,
    Scores,
)

_DTYPES: dict[tensor_pb2.DataType.ValueType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

_MAX_INT64 = 2**63 - 1


def pack(array: NDArray[Any]) -> tensor_pb2.Tensor:
    """A tensor of an array whose dtype is one of the wire's."""
    return tensor_pb2.Tensor(dtype=_CODES[array.dtype], shape=array.shape, data=array.tobytes())


def unpack(tensor: tensor_pb2.Tensor) -> NDArray[Any]:
    """The array of a tensor: a copy that may be written to."""
    return np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tuple(tensor.shape)).copy()


def image_array(images: ArrayLike) -> NDArray[np.uint8]:
    """`images` as an array; InvalidArgument unless they are 8-bit and at least one."""
    array = np.asarray(images)
    if array.dtype != np.uint8:
        hint = "; scale to 0..255 and round first" if array.dtype.kind in "fb" else ""
        raise invalid("images", f"must be uint8 with values 0 to 255, not {array.dtype}{hint}")
    if array.size == 0:
        raise invalid("images", f"has shape {list(array.shape)}: no image in it")
    return array


def image_batch(array: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """`array` as [N,H,W,C], or None if it does not fit the model's `shape` (H, W, C).

    Takes [N,H,W,C], one image [H,W,C], and with C = 1 also [N,H,W] and [H,W].
    """
    plain = shape[:2] if shape[2] == 1 else None
    if array.ndim == 4 and array.shape[1:] == shape:
        return array
    if array.ndim == 3 and array.shape == shape:
        return array[np.newaxis]
    if array.ndim == 3 and array.shape[1:] == plain:
        return array[..., np.newaxis]
    if array.ndim == 2 and array.shape == plain:
        return array[np.newaxis, ..., np.newaxis]
    return None


def wrong_shape(array: NDArray[np.uint8], shape: tuple[int, int, int], model: str) -> InvalidArgument:
    """The error for images that `image_batch` cannot fit."""
    height, width, channels = shape
    accepted = [f"[N,{height},{width},{channels}]", f"[{height},{width},{channels}]"]
    if channels == 1:
        accepted += [f"[N,{height},{width}]", f"[{height},{width}]"]
    return invalid("images", f"has shape {list(array.shape)}; {model} takes {', '.join(accepted)}")


def latent_batch(latents: ArrayLike) -> NDArray[np.float32]:
    """`latents` as [N,Z] float32; takes [N,Z] and one latent [Z] of any real dtype."""
    array = np.asarray(latents)
    if array.dtype.kind not in "fiu":
        raise invalid("latents", f"must be numbers, not {array.dtype}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise invalid("latents", f"has shape {list(array.shape)}; must be [N,Z] or [Z]")
    batch = np.atleast_2d(array).astype("<f4")
    if not np.isfinite(batch).all():
        raise invalid("latents", "has a value that is not finite")
    return batch


def version_of(version: int) -> int:
    """A version for the wire."""
    if not 0 <= version <= _MAX_INT64:
        raise invalid("version", f"is {version}; must be at least 1, or 0 for the highest that is served")
    return int(version)


def seed_of(name: str, seed: int) -> int:
    """A seed for the wire; `name` is its field."""
    if not 0 <= seed <= _MAX_INT64:
        raise invalid(name, f"is {seed}; must be 0 to 2^63 - 1")
    return int(seed)


def timeout_of(timeout: float) -> float | None:
    """Seconds for gRPC, whose None means for ever."""
    if not timeout > 0:
        raise invalid("timeout", f"is {timeout}; must be above 0 seconds (math.inf: no limit)")
    return None if math.isinf(timeout) else float(timeout)


def _info(info: timing_pb2.ReplyInfo) -> Info:
    timing = info.timing
    return Info(
        request_id=info.request_id,
        model=info.model,
        version=info.version,
        queue_seconds=timing.queue_seconds,
        compute_seconds=timing.compute_seconds,
        total_seconds=timing.total_seconds,
    )


def samples(reply: inference_service_pb2.SampleResponse) -> Samples:
    return Samples(
        images=unpack(reply.images),
        log_likelihood=unpack(reply.log_likelihood) if reply.HasField("log_likelihood") else None,
        seed=reply.seed,
        first_index=reply.first_index,
        info=_info(reply.info),
    )


def encoding(reply: inference_service_pb2.EncodeResponse) -> Encoding:
    return Encoding(
        mean=unpack(reply.mean),
        log_variance=unpack(reply.log_variance) if reply.HasField("log_variance") else None,
        latent=unpack(reply.latent) if reply.HasField("latent") else None,
        info=_info(reply.info),
    )


def decoding(reply: inference_service_pb2.DecodeResponse) -> Decoding:
    return Decoding(images=unpack(reply.images), info=_info(reply.info))


def features(reply: inference_service_pb2.ExtractFeaturesResponse) -> Features:
    return Features(
        features=unpack(reply.features),
        feature_map=unpack(reply.feature_map) if reply.HasField("feature_map") else None,
        info=_info(reply.info),
    )


def scores(reply: inference_service_pb2.ScoreResponse) -> Scores:
    return Scores(
        log_likelihood=unpack(reply.log_likelihood),
        bits_per_dim=unpack(reply.bits_per_dim),
        exact=reply.likelihood == bundle_pb2.LIKELIHOOD_EXACT,
        info=_info(reply.info),
    )


def _metric(metric: bundle_pb2.Metric) -> Metric:
    known = metric.likelihood != bundle_pb2.LIKELIHOOD_UNSPECIFIED
    exact = metric.likelihood == bundle_pb2.LIKELIHOOD_EXACT
    return Metric(metric.name, metric.value, metric.unit, metric.split, exact if known else None)


def model(message: model_service_pb2.Model) -> Model:
    bundle, limits = message.bundle, message.limits
    return Model(
        name=message.name,
        version=message.version,
        serving=message.state == model_service_pb2.MODEL_STATE_SERVING,
        reason=message.reason,
        device=message.device,
        family=bundle.family,
        description=bundle.description,
        image_shape=(bundle.image.height, bundle.image.width, bundle.image.channels),
        levels=bundle.image.levels,
        latent_size=bundle.latent_size,
        roles=tuple(role.name for role in bundle.roles),
        metrics=tuple(_metric(metric) for metric in bundle.metrics),
        limits=Limits(limits.max_sample_count, limits.max_images, limits.max_temperature, limits.max_message_bytes)
        if message.HasField("limits")
        else None,
        provenance=dict(bundle.provenance),
    )
