"""ModelInfer: a request to a job for the role's lane, and the job's answer to a reply.

Letters: N rows of a request.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.job import OneShotJob, RasterJob, Streams
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import caller
from ancestral_server.rpc.open_inference import tensors
from ancestral_server.rpc.open_inference.plans import Plan, Plans
from ancestral_server.rpc.open_inference.signature import IMAGE, INDEX, LABEL, LOG_LIKELIHOOD, TEMPERATURE, UNIFORMS
from ancestral_server.rpc.parsing import Context
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array
from inference import open_inference_service_pb2 as oip

_MAX_ID = 256


@dataclass(slots=True)
class Ask:
    """A request that was read and found good."""

    model: ModelVersion
    plan: Plan
    id: str
    # [N, ...]
    inputs: Mapping[Meaning, Array]
    # Of a role that draws always known.
    seed: int


def read(plans: Plans, request: oip.ModelInferRequest) -> Ask:
    """Check every field. Takes id and raw contents out of the request."""
    identity, raw = request.id, list(request.raw_input_contents)
    if len(identity) > _MAX_ID:
        raise InvalidArgument("id", f"has {len(identity)} characters, must have at most {_MAX_ID}")
    request.ClearField("id")
    request.ClearField("raw_input_contents")
    plan, model = plans.find(request, raw=bool(raw))
    inputs = tensors.elements(plan.inputs, request, raw)
    seed = plan.parameters.seed
    if seed is None:
        seed = secrets.randbelow(convert.MAX_SEED + 1) if plan.draws else 0
    return Ask(model, plan, identity, inputs, seed)


def job(ask: Ask, context: Context) -> OneShotJob:
    """Of a one-shot role."""
    plan = ask.plan
    future, deadline = _caller(ask, context)
    return OneShotJob(
        plan.rows, future, deadline, priority=plan.parameters.priority, inputs=_inputs(ask), wanted=plan.wanted
    )


def raster_job(ask: Ask, context: Context) -> RasterJob:
    """Of a role that paints row by row."""
    plan = ask.plan
    future, deadline = _caller(ask, context)
    return RasterJob(
        plan.rows,
        future,
        deadline,
        priority=plan.parameters.priority,
        seed=ask.seed,
        indices=ask.inputs[INDEX].tolist(),
        temperature=_temperature(plan),
        label=plan.label,
    )


def _caller(ask: Ask, context: Context) -> tuple[asyncio.Future[Any], float]:
    """What the job knows of the call: where to answer and until when."""
    future, deadline = caller(context)
    timeout = ask.plan.parameters.timeout_seconds
    return future, deadline if math.isinf(timeout) else min(deadline, time.monotonic() + timeout)


def _inputs(ask: Ask) -> Mapping[Meaning, Array | Streams]:
    """Of a one-shot role: the tensors of the request, or what its parameters say, and the noise."""
    plan = ask.plan
    if plan.noise is None and not plan.draws:
        return ask.inputs
    inputs: dict[Meaning, Array | Streams] = {} if plan.draws else dict(ask.inputs)
    if plan.draws:
        specs = ask.model.programs[plan.role].inputs
        if TEMPERATURE in specs:
            inputs[TEMPERATURE] = np.full(plan.rows, _temperature(plan), np.float32)
        if LABEL in specs:
            inputs[LABEL] = np.full(plan.rows, plan.label, np.int64)
    if plan.noise is not None:
        indices = ask.inputs[INDEX].tolist() if plan.draws else None
        inputs[UNIFORMS] = Streams(ask.seed, 0, plan.noise, indices)
    return inputs


def _temperature(plan: Plan) -> float:
    return 1.0 if plan.parameters.temperature is None else plan.parameters.temperature


def reply(ask: Ask, job: OneShotJob) -> oip.ModelInferResponse:
    return _filled(ask, [job.output(meaning).tobytes() for meaning in ask.plan.wanted])


def raster_reply(ask: Ask, job: RasterJob) -> oip.ModelInferResponse:
    arrays = {IMAGE: job.images, LOG_LIKELIHOOD: job.log_likelihood}
    return _filled(ask, [arrays[meaning].tobytes() for meaning in ask.plan.wanted])


def _filled(ask: Ask, outputs: Sequence[bytes]) -> oip.ModelInferResponse:
    reply = oip.ModelInferResponse()
    reply.CopyFrom(ask.plan.reply)
    reply.id = ask.id
    if ask.plan.draws:
        reply.parameters["seed"].int64_param = ask.seed
    reply.raw_output_contents.extend(outputs)
    return reply
