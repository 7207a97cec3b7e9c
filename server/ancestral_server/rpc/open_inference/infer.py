"""ModelInfer: a request to a job for the role's lane, and the job's answer to a reply.

Letters: N rows of a request.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ancestral_server.catalog import Catalog, ModelVersion
from ancestral_server.engine.job import OneShotJob, RasterJob, Streams
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.calls import caller
from ancestral_server.rpc.oneshot import ENVELOPE_BYTES
from ancestral_server.rpc.open_inference import names, parameters, tensors
from ancestral_server.rpc.open_inference.parameters import Parameters
from ancestral_server.rpc.open_inference.signature import (
    IMAGE,
    INDEX,
    LABEL,
    LATENT,
    LOG_LIKELIHOOD,
    TEMPERATURE,
    UNIFORMS,
    Port,
    signature,
)
from ancestral_server.rpc.parsing import Context
from ancestral_server.runtime.program import Meaning, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings
from inference import open_inference_service_pb2 as oip

_MAX_ID = 256


@dataclass(slots=True)
class Ask:
    """A request that was read and found good."""

    model: ModelVersion
    role: str
    program: Program
    rows: int
    inputs: Mapping[Meaning, Array]
    wanted: Sequence[Port]
    parameters: Parameters
    # Of a role that draws its seed is always known; the class it draws from, 0 where there are none.
    seed: int
    label: int
    draws: bool


def read(catalog: Catalog, settings: Settings, request: oip.ModelInferRequest) -> Ask:
    """Check every field."""
    model, role = names.find(catalog, request.model_name, request.model_version, fields=("model_name", "model_version"))
    program = model.programs[role]
    known = signature(program)
    if len(request.id) > _MAX_ID:
        raise InvalidArgument("id", f"has {len(request.id)} characters, must have at most {_MAX_ID}")
    asked = parameters.read(request.parameters)
    seed, label = asked.seed or 0, 0
    if known.draws:
        seed = secrets.randbelow(convert.MAX_SEED + 1) if asked.seed is None else asked.seed
        classes = program.label_count if LABEL in program.inputs else 0
        label = convert.sample_label("parameters[label]", asked.label, classes)
    elif asked.temperature is not None or asked.label is not None:
        name = "label" if asked.temperature is None else "temperature"
        raise InvalidArgument(f"parameters[{name}]", f"is set, must be unset: {role} takes no such parameter")
    limit = settings.max_sample_count if known.draws else settings.max_images
    inputs = tensors.read(request, known, limit, program.label_count)
    wanted = tensors.wanted(request, known, seeded=asked.seed is not None)
    rows = len(next(iter(inputs.values())))
    row_bytes = sum([port.bytes for port in wanted])
    convert.reply_size("inputs[0].shape", rows, row_bytes, settings.max_message_bytes - ENVELOPE_BYTES)
    return Ask(model, role, program, rows, inputs, wanted, asked, seed, label, known.draws)


async def answer(ask: Ask, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
    arrays = await _run(ask, context)
    reply = oip.ModelInferResponse(model_name=request.model_name, model_version=str(ask.model.version), id=request.id)
    if ask.draws:
        reply.parameters["seed"].int64_param = ask.seed
    for port in ask.wanted:
        tensors.write(reply, port, arrays[port.meaning])
    return reply


async def _run(ask: Ask, context: Context) -> Mapping[Meaning, Array]:
    """Ask the lane; the wanted outputs [N, ...]."""
    lane = ask.model.lane(ask.role)
    if isinstance(lane, RasterLoop):
        raster = await lane.ask(
            RasterJob(
                ask.rows,
                *_caller(ask, context),
                priority=ask.parameters.priority,
                seed=ask.seed,
                indices=ask.inputs[INDEX].tolist(),
                temperature=_temperature(ask),
                label=ask.label,
            )
        )
        return {IMAGE: raster.images, LOG_LIKELIHOOD: raster.log_likelihood}
    wanted = [port.meaning for port in ask.wanted]
    priority = ask.parameters.priority
    job = OneShotJob(ask.rows, *_caller(ask, context), inputs=_inputs(ask, wanted), wanted=wanted, priority=priority)
    await lane.ask(job)
    return {meaning: job.output(meaning) for meaning in wanted}


def _inputs(ask: Ask, wanted: Sequence[Meaning]) -> dict[Meaning, Array | Streams]:
    """Of a one-shot role: the tensors of the request, or what its parameters say, and the noise."""
    specs = ask.program.inputs
    inputs: dict[Meaning, Array | Streams] = {} if ask.draws else dict(ask.inputs)
    if ask.draws and TEMPERATURE in specs:
        inputs[TEMPERATURE] = np.full(ask.rows, _temperature(ask), np.float32)
    if ask.draws and LABEL in specs:
        inputs[LABEL] = np.full(ask.rows, ask.label, np.int64)
    # An encoder's moments do not depend on its noise, which costs more to draw than they do.
    if UNIFORMS in specs and (LATENT in wanted or LATENT not in ask.program.outputs):
        indices = ask.inputs[INDEX].tolist() if ask.draws else None
        inputs[UNIFORMS] = Streams(ask.seed, 0, tuple(specs[UNIFORMS].shape), indices)
    return inputs


def _temperature(ask: Ask) -> float:
    return 1.0 if ask.parameters.temperature is None else ask.parameters.temperature


def _caller(ask: Ask, context: Context) -> tuple[asyncio.Future[Any], float]:
    """What the job knows of the call: where to answer and until when."""
    future, deadline = caller(context)
    return future, min(deadline, time.monotonic() + ask.parameters.timeout_seconds)
