"""Arrays to protos, and replies to results. Pure: no channel, no state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle.dtypes import DTYPES, NUMBERS
from ancestral.v1 import bundle_pb2, inference_service_pb2, model_service_pb2, tensor_pb2, timing_pb2
from ancestral_client.errors import Unimplemented
from ancestral_client.results import (
    Classes,
    Decoding,
    Encoding,
    Features,
    Info,
    Limits,
    Metric,
    Model,
    PaintedRow,
    RoleForm,
    SampledImage,
    Samples,
    Scores,
)

_STATES: dict[int, str] = {
    model_service_pb2.MODEL_STATE_SERVING: "serving",
    model_service_pb2.MODEL_STATE_NOT_SERVING: "not serving",
    model_service_pb2.MODEL_STATE_LOADING: "loading",
    model_service_pb2.MODEL_STATE_DRAINING: "draining",
}


def pack(array: NDArray[Any]) -> tensor_pb2.Tensor:
    """A tensor of an array whose dtype is one of the wire's."""
    return tensor_pb2.Tensor(dtype=NUMBERS[array.dtype], shape=array.shape, data=array.tobytes())


def from_row(tensor: tensor_pb2.Tensor, start: int) -> tensor_pb2.Tensor:
    """The tensor without what lies before index `start` of its first axis; all of it where that has length 1."""
    return tensor if tensor.shape[0] == 1 else pack(unpack(tensor)[start:])


def unpack(tensor: tensor_pb2.Tensor) -> NDArray[Any]:
    """The array of a tensor: a copy that may be written to."""
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tuple(tensor.shape)).copy()


def _info(info: timing_pb2.ReplyInfo) -> Info:
    timing = info.timing
    return Info(
        request_id=info.request_id,
        model=info.model,
        version=info.version,
        queue_seconds=timing.queue_seconds,
        compute_seconds=timing.compute_seconds,
        total_seconds=timing.total_seconds,
        batch_size=timing.batch_size,
    )


def samples(reply: inference_service_pb2.SampleResponse) -> Samples:
    return Samples(
        images=unpack(reply.images),
        log_likelihood=unpack(reply.log_likelihood) if reply.HasField("log_likelihood") else None,
        seed=reply.seed,
        first_index=reply.first_index,
        info=_info(reply.info),
    )


def event(reply: inference_service_pb2.SampleStreamResponse) -> SampledImage | PaintedRow | None:
    """What happened in a stream; None if it is of a kind that this client does not know yet."""
    info = _info(reply.info)
    match reply.WhichOneof("event"):
        case "image":
            image = reply.image
            likelihood = image.log_likelihood if image.HasField("log_likelihood") else None
            return SampledImage(image.index, image.seed, unpack(image.image), likelihood, info)
        case "row":
            return PaintedRow(reply.row.index, reply.row.row, unpack(reply.row.pixels), info)
    return None


def encoding(reply: inference_service_pb2.EncodeResponse) -> Encoding:
    return Encoding(
        mean=unpack(reply.mean),
        log_variance=unpack(reply.log_variance) if reply.HasField("log_variance") else None,
        latent=unpack(reply.latent) if reply.HasField("latent") else None,
        info=_info(reply.info),
    )


def decoding(reply: inference_service_pb2.DecodeResponse) -> Decoding:
    return Decoding(
        images=unpack(reply.images),
        mean=unpack(reply.mean) if reply.HasField("mean") else None,
        variance=unpack(reply.variance) if reply.HasField("variance") else None,
        info=_info(reply.info),
    )


def features(reply: inference_service_pb2.ExtractFeaturesResponse) -> Features:
    return Features(
        features=unpack(reply.features),
        feature_map=unpack(reply.feature_map) if reply.HasField("feature_map") else None,
        info=_info(reply.info),
    )


def classes(reply: inference_service_pb2.ClassifyResponse) -> Classes:
    return Classes(
        logits=unpack(reply.logits),
        probabilities=unpack(reply.probabilities),
        labels=np.array(reply.labels, np.int64),
        class_names=tuple(reply.class_names),
        info=_info(reply.info),
    )


def scores(reply: inference_service_pb2.ScoreResponse, draws: int) -> Scores:
    """Of a call for so many draws; Unimplemented where the server has not heard of draws."""
    if draws > 1 and reply.draws != draws:
        raise Unimplemented(f"draws: is {draws}; this server is an older one, whose bounds are of one draw")
    return Scores(
        log_likelihood=unpack(reply.log_likelihood),
        bits_per_dim=unpack(reply.bits_per_dim),
        exact=reply.likelihood == bundle_pb2.LIKELIHOOD_EXACT,
        draws=reply.draws,
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
        state=_STATES.get(message.state, "unknown"),
        reason=message.reason,
        device=message.device,
        family=bundle.family,
        description=bundle.description,
        image_shape=(bundle.image.height, bundle.image.width, bundle.image.channels),
        levels=bundle.image.levels,
        latent_size=bundle.latent_size,
        label_count=bundle.label_count,
        roles=tuple(role.name for role in bundle.roles),
        metrics=tuple(_metric(metric) for metric in bundle.metrics),
        limits=Limits(limits.max_sample_count, limits.max_images, limits.max_temperature, limits.max_message_bytes)
        if message.HasField("limits")
        else None,
        provenance=dict(bundle.provenance),
        class_names=tuple(bundle.class_names),
        forms=tuple(RoleForm(form.role, form.form, form.device, form.reason) for form in message.forms),
    )
