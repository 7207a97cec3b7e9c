"""The face of a role in the Open Inference Protocol: tensors in by meaning, tensors out, whatever the role is called.

Letters: N rows of a request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ancestral_server.engine.endpoint import TakesOneShots, TakesRasters
from ancestral_server.engine.job import (
    Completion,
    Derived,
    NoiseStreams,
    OneShotJob,
    Priority,
    ProgressEvents,
    RasterJob,
    RowSource,
)
from ancestral_server.rpc.asking import Lane, answered, ask, caller, give_up
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.roles.draws import LOG_VARIANCE, LOG_WEIGHT, MEAN, Bound, PosteriorDraw, repeated
from ancestral_server.rpc.roles.signature import (
    GIVEN,
    IMAGE,
    INDEX,
    KNOWN,
    LABEL,
    LATENT,
    LOG_LIKELIHOOD,
    TEMPERATURE,
    UNIFORMS,
)
from ancestral_server.runtime.program import Meaning, OneShotProgram
from ancestral_server.runtime.session import Array


class TensorCall(NamedTuple):
    """A request that was read and found good."""

    rows: int
    # [N, ...]; of a role that draws INDEX alone, or with [1 or N, ...] of what to complete.
    inputs: Mapping[Meaning, Array]
    wanted: Sequence[Meaning]
    seed: int
    priority: Priority
    # At most so many, beside the deadline of the call.
    timeout_seconds: float
    # Temperature and label matter to roles that draw.
    temperature: float
    label: int
    # How many draws each likelihood is made of.
    draws: int


# How a lane is given a job: it is submitted, or waited for until it is done.
Asking: TypeAlias = "Callable[[Lane[Any], Any], Awaitable[object]]"


class Tensors(Protocol):
    async def infer(self, call: TensorCall, context: Context, asking: Asking = ask) -> Sequence[Array]:
        """The wanted outputs [N, ...], in order. ServerError if the call is refused, expires or fails. `asking` has a
        job done.
        """

    def each(
        self, call: TensorCall, context: Context, submitting: Asking
    ) -> AsyncGenerator[tuple[int, Sequence[Array]]]:
        """Of a role that draws: each row of the call as soon as it is finished, and its outputs [1, ...]. ServerError
        as from `infer`. `submitting` submits a job.
        """


class OneShotTensors:
    """Of a role whose answer is one run. What is asked for row by row is run `chunk` rows at a time."""

    def __init__(self, program: OneShotProgram, endpoint: TakesOneShots, chunk: int) -> None:
        self._endpoint = endpoint
        self._chunk = chunk
        self._inputs = frozenset(program.inputs)
        self._noise = tuple(program.inputs[UNIFORMS].shape) if UNIFORMS in program.inputs else None
        # An encoder's moments do not depend on its noise, which costs more to draw than they do.
        self._noise_for = LATENT if LATENT in program.outputs else None
        self._draws = PosteriorDraw.possible(program)
        self._weighs = LOG_WEIGHT in program.outputs

    async def infer(self, call: TensorCall, context: Context, asking: Asking = ask) -> Sequence[Array]:
        job = self._job(call, context)
        await asking(self._endpoint, job)
        return self._outputs(call, job)

    async def each(
        self, call: TensorCall, context: Context, submitting: Asking
    ) -> AsyncGenerator[tuple[int, Sequence[Array]]]:
        for start in range(0, call.rows, self._chunk):
            rows = min(self._chunk, call.rows - start)
            inputs = {meaning: array[start : start + rows] for meaning, array in call.inputs.items()}
            part = call._replace(rows=rows, inputs=inputs)
            job = self._job(part, context)
            await submitting(self._endpoint, job)
            outputs = self._outputs(part, await answered(job))
            for row in range(rows):
                yield start + row, [output[row : row + 1] for output in outputs]

    def _job(self, call: TensorCall, context: Context) -> OneShotJob:
        wanted, derived = self._outputs_of(call)
        return OneShotJob(
            call.rows * call.draws,
            *caller(context, call.timeout_seconds),
            priority=call.priority,
            inputs=self._inputs_of(call),
            wanted=wanted,
            derived=derived,
            draws=call.draws,
        )

    @staticmethod
    def _outputs(call: TensorCall, job: OneShotJob) -> Sequence[Array]:
        # What is not made of all draws of an image is that of the first.
        return [
            job.output(meaning) if meaning in job.derived else job.output(meaning)[:: call.draws]
            for meaning in call.wanted
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

    async def infer(self, call: TensorCall, context: Context, asking: Asking = ask) -> Sequence[Array]:
        job = self._job(call, context)
        await asking(self._endpoint, job)
        return self._outputs(call, job)

    async def each(
        self, call: TensorCall, context: Context, submitting: Asking
    ) -> AsyncGenerator[tuple[int, Sequence[Array]]]:
        job = self._job(call, context, ProgressEvents(rows=False))
        await submitting(self._endpoint, job)
        try:
            async with aclosing(job.events()) as events:
                async for row, _ in events:
                    yield row, [output[row : row + 1] for output in self._outputs(call, job)]
        except BaseException:
            give_up(job)
            raise
        await answered(job)

    @staticmethod
    def _job(call: TensorCall, context: Context, feed: ProgressEvents | None = None) -> RasterJob:
        kept = Completion(call.inputs[GIVEN], call.inputs[KNOWN]) if GIVEN in call.inputs else None
        return RasterJob(
            call.rows,
            *caller(context, call.timeout_seconds),
            priority=call.priority,
            seed=call.seed,
            indices=call.inputs[INDEX].tolist(),
            temperature=call.temperature,
            label=call.label,
            completion=kept,
            feed=feed,
        )

    @staticmethod
    def _outputs(call: TensorCall, job: RasterJob) -> Sequence[Array]:
        arrays = {IMAGE: job.images, LOG_LIKELIHOOD: job.log_likelihood}
        return [arrays[meaning] for meaning in call.wanted]
