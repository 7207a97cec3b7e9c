"""Requests to jobs of one-shot lanes, and jobs to replies: the same for a call and for one message of a stream.

`prefix` is the path of the request in the message that brought it; `of_call` is what the job knows of its call.
Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.job import OneShotJob, Streams
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import image_shape, info, tell
from ancestral_server.runtime.program import Meaning, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
MEAN = bundle_pb2.MEANING_MEAN
LOG_VARIANCE = bundle_pb2.MEANING_LOG_VARIANCE
LATENT = bundle_pb2.MEANING_LATENT
LABEL = bundle_pb2.MEANING_LABEL
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
# What a reply needs beside its tensors.
ENVELOPE_BYTES = 4096


def lane(model: ModelVersion, role: str, field: str = "model") -> BatchLoop:
    """RoleMissing if the model cannot do that; `field` is where the request names it."""
    found = model.lane(role, field)
    assert isinstance(found, BatchLoop), "only `sample` may be a raster role; a bundle with another is refused"
    return found


def encode_job(
    model: ModelVersion, request: pb.EncodeRequest, settings: Settings, prefix: str = "", **of_call: Any
) -> OneShotJob:
    program = model.programs["encode"]
    images = convert.batch(f"{prefix}images", request.images, program.inputs[IMAGE], settings.max_images)
    first = convert.first_index(f"{prefix}first_index", request.first_index, len(images))
    inputs: dict[Meaning, Array | Streams] = {IMAGE: images}
    wanted = [meaning for meaning in (MEAN, LOG_VARIANCE) if meaning in program.outputs]
    if request.HasField("draw_seed"):
        field = f"{prefix}draw_seed"
        seed = convert.seed(field, request.draw_seed)
        if LATENT not in program.outputs or UNIFORMS not in program.inputs:
            raise RoleMissing(
                model.name, f"{field}: the encoder of {model.name} is deterministic, draws nothing", field
            )
        inputs[UNIFORMS] = Streams(seed, first, tuple(program.inputs[UNIFORMS].shape))
        wanted.append(LATENT)
    check_reply(f"{prefix}images", program, wanted, len(images), settings)
    priority = convert.priority(f"{prefix}priority", request.priority)
    return OneShotJob(**of_call, rows=len(images), inputs=inputs, wanted=wanted, priority=priority)


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


def score_job(
    model: ModelVersion, request: pb.ScoreRequest, settings: Settings, prefix: str = "", **of_call: Any
) -> OneShotJob:
    program = model.programs["score"]
    images = convert.batch(f"{prefix}images", request.images, program.inputs[IMAGE], settings.max_images)
    seed = convert.seed(f"{prefix}seed", request.seed)
    first = convert.first_index(f"{prefix}first_index", request.first_index, len(images))
    inputs = labelled(program, images, request.labels, prefix)
    if UNIFORMS in program.inputs:
        inputs[UNIFORMS] = Streams(seed, first, tuple(program.inputs[UNIFORMS].shape))
    priority = convert.priority(f"{prefix}priority", request.priority)
    return OneShotJob(**of_call, rows=len(images), inputs=inputs, wanted=[LOG_LIKELIHOOD], priority=priority)


def score_reply(model: ModelVersion, job: OneShotJob) -> pb.ScoreResponse:
    likelihood = job.output(LOG_LIKELIHOOD)
    dimensions = math.prod(image_shape(model))
    return pb.ScoreResponse(
        info=info(model, job),
        log_likelihood=convert.tensor(likelihood),
        bits_per_dim=convert.tensor((-likelihood / np.float32(dimensions * math.log(2))).astype(np.float32)),
        likelihood=model.programs["score"].role.likelihood,
    )


def labelled(
    program: Program, images: Array, values: Sequence[int], prefix: str = ""
) -> dict[Meaning, Array | Streams]:
    """The inputs of a role that takes images and, of a class-conditional model, their labels."""
    classes = program.label_count if LABEL in program.inputs else 0
    labels = convert.labels(f"{prefix}labels", values, len(images), classes)
    return {IMAGE: images} if labels is None else {IMAGE: images, LABEL: labels}


def check_reply(field: str, program: Program, wanted: Sequence[Meaning], rows: int, settings: Settings) -> None:
    """Refuse before any work what would not fit a reply."""
    per_row = sum([program.row_bytes[meaning] for meaning in wanted])
    convert.reply_size(field, rows, per_row, settings.max_message_bytes - ENVELOPE_BYTES)


def output(job: OneShotJob, meaning: Meaning) -> tensor_pb2.Tensor | None:
    return convert.tensor(job.output(meaning)) if meaning in job.pieces else None
