"""ModelInfer: a request to a job for the role's lane, and the job's answer to a reply.

Letters: N rows of a request.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.engine.job import OneShotJob, RasterJob, Streams
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import caller
from ancestral_server.rpc.open_inference import names, tensors
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


def read(catalog: Catalog, plans: Plans, request: oip.ModelInferRequest) -> Ask:
    """Check every field. Takes id and raw contents out of the request."""
    model, role = names.find(catalog, request.model_name, request.model_version, fields=("model_name", "model_version"))
    identity, raw = request.id, list(request.raw_input_contents)
    if len(identity) > _MAX_ID:
        raise InvalidArgument("id", f"has {len(identity)} characters, must have at most {_MAX_ID}")
    request.ClearField("id")
    request.ClearField("raw_input_contents")
    plan = plans.find(model, role, request, raw=bool(raw))
    inputs = tensors.elements(plan.inputs, request, raw, model.programs[role].label_count)
    seed = plan.parameters.seed
    if seed is None:
        seed = secrets.randbelow(convert.MAX_SEED + 1) if plan.draws else 0
    return Ask(model, plan, identity, inputs, seed)


async def answer(ask: Ask, context: Context) -> oip.ModelInferResponse:
    arrays = await _run(ask, context)
    reply = oip.ModelInferResponse()
    reply.CopyFrom(ask.plan.reply)
    reply.id = ask.id
    if ask.plan.draws:
        reply.parameters["seed"].int64_param = ask.seed
    reply.raw_output_contents.extend([arrays[meaning].tobytes() for meaning in ask.plan.meanings])
    return reply


async def _run(ask: Ask, context: Context) -> Mapping[Meaning, Array]:
    """Ask the lane; the wanted outputs [N, ...]."""
    plan = ask.plan
    lane = ask.model.lane(plan.role)
    future, deadline = caller(context)
    deadline = min(deadline, time.monotonic() + plan.parameters.timeout_seconds)
    priority = plan.parameters.priority
    if isinstance(lane, RasterLoop):
        raster = await lane.ask(
            RasterJob(
                plan.rows,
                future,
                deadline,
                priority=priority,
                seed=ask.seed,
                indices=ask.inputs[INDEX].tolist(),
                temperature=_temperature(plan),
                label=plan.label,
            )
        )
        return {IMAGE: raster.images, LOG_LIKELIHOOD: raster.log_likelihood}
    job = OneShotJob(plan.rows, future, deadline, inputs=_inputs(ask), wanted=plan.meanings, priority=priority)
    await lane.ask(job)
    return {meaning: job.output(meaning) for meaning in plan.meanings}


def _inputs(ask: Ask) -> Mapping[Meaning, Array | Streams]:
    """Of a one-shot role: the tensors of the request, or what its parameters say, and the noise."""
    plan = ask.plan
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
