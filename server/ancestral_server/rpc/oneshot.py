"""Requests to jobs of one-shot lanes, and jobs to replies: the same for a call and for one message of a stream.

`prefix` is the path of the request in the message that brought it.
Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import ReferenceType, ref

import numpy as np

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob, Priority, Streams
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import caller, image_shape, info, tell
from ancestral_server.rpc.parsing import Context
from ancestral_server.rpc.repeats import Form, Request
from ancestral_server.runtime.program import DTYPES, Meaning, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
MEAN = bundle_pb2.MEANING_MEAN
LOG_VARIANCE = bundle_pb2.MEANING_LOG_VARIANCE
LATENT = bundle_pb2.MEANING_LATENT
LABEL = bundle_pb2.MEANING_LABEL
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
FEATURES = bundle_pb2.MEANING_FEATURES
FEATURE_MAP = bundle_pb2.MEANING_FEATURE_MAP
LOGITS = bundle_pb2.MEANING_LOGITS
# What a reply needs beside its tensors.
ENVELOPE_BYTES = 4096


def endpoint(model: ModelVersion, role: str, field: str = "model") -> OneShotEndpoint:
    """RoleMissing if the model cannot do that; `field` is where the request names it."""
    found = model.endpoints.get(role) or model.endpoint(role, field)
    assert isinstance(found, OneShotEndpoint), "only `sample` may be a raster role; a bundle with another is refused"
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What all requests of one form ask of a model version: a job without its images."""

    # Not to keep one that has been unloaded.
    model: ReferenceType[ModelVersion]
    # Of the images, [N,H,W,C].
    shape: tuple[int, ...]
    # Beside them.
    inputs: Mapping[Meaning, Array | Streams]
    wanted: Sequence[Meaning]
    priority: Priority


def job(
    role: str,
    model: ModelVersion,
    request: Request,
    settings: Settings,
    context: Context,
    prefix: str = "",
    unset: Priority = Priority.INTERACTIVE,
) -> OneShotJob:
    """The job of a request to encode, score or featurise images; `unset` is the priority of one that names none."""
    plan: Plan | None = request.form.plan
    if plan is None or plan.model() is not model:
        plan = request.form.plan = _plan(role, model, request.form, settings, prefix, unset)
    return OneShotJob(
        plan.shape[0],
        *caller(context),
        inputs={IMAGE: request.images(plan.shape), **plan.inputs},
        wanted=plan.wanted,
        priority=plan.priority,
    )


def _plan(role: str, model: ModelVersion, form: Form, settings: Settings, prefix: str, unset: Priority) -> Plan:
    """Check every field."""
    request, program, field = form.message, model.programs[role], f"{prefix}images"
    spec = program.inputs[IMAGE]
    shape = convert.batch_shape(field, request.images, spec, convert.Limit.of(settings, "max_images"))
    convert.check_bytes(f"{field}.data", form.size, DTYPES[spec.dtype], shape)
    inputs, wanted = _READ[role](model, program, request, shape[0], prefix)
    check_reply(field, program, [*wanted, *_REPLY_ADDS.get(role, ())], shape[0], settings)
    priority = convert.priority(f"{prefix}priority", request.priority, unset)
    return Plan(ref(model), shape, inputs, wanted, priority)


# What a reply holds beside the outputs, as large as these: a classifier's probabilities.
_REPLY_ADDS: Mapping[str, Sequence[Meaning]] = {"classify": [LOGITS]}

_Asked: TypeAlias = tuple[dict[Meaning, Array | Streams], Sequence[Meaning]]


def _encode(model: ModelVersion, program: Program, request: pb.EncodeRequest, rows: int, prefix: str) -> _Asked:
    """What a request brings beside so many images, and the outputs it wants; of an encoder."""
    first = convert.first_index(f"{prefix}first_index", request.first_index, rows)
    wanted = [meaning for meaning in (MEAN, LOG_VARIANCE) if meaning in program.outputs]
    if not request.HasField("draw_seed"):
        return {}, wanted
    field = f"{prefix}draw_seed"
    seed = convert.seed(field, request.draw_seed)
    if LATENT not in program.outputs or UNIFORMS not in program.inputs:
        raise RoleMissing(model.name, f"{field}: the encoder of {model.name} is deterministic, draws nothing", field)
    return {UNIFORMS: Streams(seed, first, tuple(program.inputs[UNIFORMS].shape))}, [*wanted, LATENT]


def _score(_: ModelVersion, program: Program, request: pb.ScoreRequest, rows: int, prefix: str) -> _Asked:
    """The same of a scorer."""
    seed = convert.seed(f"{prefix}seed", request.seed)
    first = convert.first_index(f"{prefix}first_index", request.first_index, rows)
    inputs = _labels(program, request.labels, rows, prefix)
    if UNIFORMS in program.inputs:
        inputs[UNIFORMS] = Streams(seed, first, tuple(program.inputs[UNIFORMS].shape))
    return inputs, [LOG_LIKELIHOOD]


def _features(
    model: ModelVersion, program: Program, request: pb.ExtractFeaturesRequest, rows: int, prefix: str
) -> _Asked:
    """The same of a feature extractor."""
    wanted = [FEATURES]
    if request.include_map:
        if FEATURE_MAP not in program.outputs:
            raise RoleMissing(model.name, f"include_map: {model.name} has no feature map", "include_map")
        wanted.append(FEATURE_MAP)
    return _labels(program, request.labels, rows, prefix), wanted


def _classify(_: ModelVersion, program: Program, request: pb.ClassifyRequest, rows: int, prefix: str) -> _Asked:
    """The same of a classifier."""
    return {}, [LOGITS]


def _labels(program: Program, values: Sequence[int], rows: int, prefix: str) -> dict[Meaning, Array | Streams]:
    """The labels of so many images, of a class-conditional model."""
    classes = program.label_count if LABEL in program.inputs else 0
    labels = convert.labels(f"{prefix}labels", values, rows, classes)
    return {} if labels is None else {LABEL: labels}


_READ: Mapping[str, Callable[[ModelVersion, Program, Any, int, str], _Asked]] = {
    "encode": _encode,
    "score": _score,
    "features": _features,
    "classify": _classify,
}


def encode_reply(model: ModelVersion, job: OneShotJob) -> pb.EncodeResponse:
    # Written in place, field by field: a reply that is put together from messages copies each of them.
    reply = pb.EncodeResponse()
    tell(reply.info, model, job)
    if MEAN in job.pieces:
        convert.fill(reply.mean, job.output(MEAN))
    if LOG_VARIANCE in job.pieces:
        convert.fill(reply.log_variance, job.output(LOG_VARIANCE))
    if LATENT in job.pieces:
        convert.fill(reply.latent, job.output(LATENT))
    return reply


def score_reply(model: ModelVersion, job: OneShotJob) -> pb.ScoreResponse:
    likelihood = job.output(LOG_LIKELIHOOD)
    dimensions = math.prod(image_shape(model))
    return pb.ScoreResponse(
        info=info(model, job),
        log_likelihood=convert.tensor(likelihood),
        bits_per_dim=convert.tensor((-likelihood / np.float32(dimensions * math.log(2))).astype(np.float32)),
        likelihood=model.programs["score"].role.likelihood,
    )


def features_reply(model: ModelVersion, job: OneShotJob) -> pb.ExtractFeaturesResponse:
    return pb.ExtractFeaturesResponse(
        info=info(model, job), features=output(job, FEATURES), feature_map=output(job, FEATURE_MAP)
    )


def classify_reply(model: ModelVersion, job: OneShotJob) -> pb.ClassifyResponse:
    logits = job.output(LOGITS)  # [N,K]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert model.manifest is not None
    return pb.ClassifyResponse(
        info=info(model, job),
        logits=convert.tensor(logits),
        probabilities=convert.tensor(probabilities.astype(np.float32)),
        labels=logits.argmax(axis=1).tolist(),
        class_names=model.manifest.class_names,
    )


def check_reply(field: str, program: Program, wanted: Sequence[Meaning], rows: int, settings: Settings) -> None:
    """Refuse before any work what would not fit a reply."""
    per_row = sum([program.row_bytes[meaning] for meaning in wanted])
    convert.reply_size(field, rows, per_row, settings.max_message_bytes - ENVELOPE_BYTES)


def output(job: OneShotJob, meaning: Meaning) -> tensor_pb2.Tensor | None:
    return convert.tensor(job.output(meaning)) if meaning in job.pieces else None
