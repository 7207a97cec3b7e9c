"""The face of a role in the Open Inference Protocol: tensors in by meaning, tensors out, whatever the role is called.

Letters: N rows of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ancestral_server.engine.endpoint import TakesOneShots, TakesRasters
from ancestral_server.engine.job import Derived, NoiseStreams, OneShotJob, Priority, RasterJob, RowSource
from ancestral_server.rpc.asking import ask, caller
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.roles.draws import LOG_VARIANCE, LOG_WEIGHT, MEAN, Bound, PosteriorDraw, repeated
from ancestral_server.rpc.roles.signature import IMAGE, INDEX, LABEL, LATENT, LOG_LIKELIHOOD, TEMPERATURE, UNIFORMS
from ancestral_server.runtime.program import Meaning, OneShotProgram
from ancestral_server.runtime.session import Array


class TensorCall(NamedTuple):
    """A request that was read and found good."""

    rows: int
    # [N, ...]; of a role that draws INDEX alone.
    inputs: Mapping[Meaning, Array]
    wanted: Sequence[Meaning]
    seed: int
    priority: Priority
    # At most so many, beside the deadline of the call.
    timeout_seconds: float
    # Of a role that draws.
    temperature: float
    label: int
    # That each likelihood is made of.
    draws: int


class Tensors(Protocol):
    async def infer(self, call: TensorCall, context: Context) -> Sequence[Array]:
        """The wanted outputs [N, ...], in order. ServerError if the call is refused, expires or fails."""


class OneShotTensors:
    """Of a role whose answer is one run."""

    def __init__(self, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        self._endpoint = endpoint
        self._inputs = frozenset(program.inputs)
        self._noise = tuple(program.inputs[UNIFORMS].shape) if UNIFORMS in program.inputs else None
        # An encoder's moments do not depend on its noise, which costs more to draw than they do.
        self._noise_for = LATENT if LATENT in program.outputs else None
        self._draws = PosteriorDraw.possible(program)
        self._weighs = LOG_WEIGHT in program.outputs

    async def infer(self, call: TensorCall, context: Context) -> Sequence[Array]:
        wanted, derived = self._outputs_of(call)
        job = OneShotJob(
            call.rows * call.draws,
            *caller(context, call.timeout_seconds),
            priority=call.priority,
            inputs=self._inputs_of(call),
            wanted=wanted,
            derived=derived,
            draws=call.draws,
        )
        await ask(self._endpoint, job)
        # What is not made of all draws of an image is that of the first.
        return [
            job.output(meaning) if meaning in derived else job.output(meaning)[:: call.draws] for meaning in call.wanted
        ]

    def _outputs_of(self, call: TensorCall) -> tuple[Sequence[Meaning], Mapping[Meaning, Derived]]:
        """The outputs of the graph, and what is made of them."""
        derived: dict[Meaning, Derived] = {}
        wanted = dict.fromkeys(call.wanted)
        if self._draws and LATENT in wanted:
            derived[LATENT] = PosteriorDraw(call.seed, 0)
            wanted |= dict.fromkeys((MEAN, LOG_VARIANCE))
        if self._weighs and LOG_LIKELIHOOD in wanted:
            derived[LOG_LIKELIHOOD] = Bound(call.draws)
            wanted[LOG_WEIGHT] = None
        return [meaning for meaning in wanted if meaning not in derived], derived

    def _inputs_of(self, call: TensorCall) -> Mapping[Meaning, RowSource]:
        """The tensors of the request, or what its parameters say, and the noise."""
        inputs = repeated(call.inputs, call.draws)
        index = inputs.pop(INDEX, None)
        if index is not None:
            if TEMPERATURE in self._inputs:
                inputs[TEMPERATURE] = np.full(call.rows, call.temperature, np.float32)
            if LABEL in self._inputs:
                inputs[LABEL] = np.full(call.rows, call.label, np.int64)
        if self._noise is not None and (self._noise_for is None or self._noise_for in call.wanted):
            indices = None if index is None else call.inputs[INDEX].tolist()
            inputs[UNIFORMS] = NoiseStreams(call.seed, 0, self._noise, indices, call.draws)
        return inputs


class RasterTensors:
    """Of a role that paints row by row."""

    def __init__(self, endpoint: TakesRasters) -> None:
        self._endpoint = endpoint

    async def infer(self, call: TensorCall, context: Context) -> Sequence[Array]:
        job = RasterJob(
            call.rows,
            *caller(context, call.timeout_seconds),
            priority=call.priority,
            seed=call.seed,
            indices=call.inputs[INDEX].tolist(),
            temperature=call.temperature,
            label=call.label,
        )
        await ask(self._endpoint, job)
        arrays = {IMAGE: job.images, LOG_LIKELIHOOD: job.log_likelihood}
        return [arrays[meaning] for meaning in call.wanted]
