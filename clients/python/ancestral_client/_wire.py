"""Arrays to protos and back, and what all replies tell. Pure: no channel, no state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle.dtypes import DTYPES, NUMBERS
from ancestral.v1 import bundle_pb2, model_service_pb2, tensor_pb2, timing_pb2
from ancestral_client.results import (
    Info,
    Limits,
    Metric,
    Model,
    RoleForm,
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


def info(info: timing_pb2.ReplyInfo) -> Info:
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
