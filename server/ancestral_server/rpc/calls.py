"""What the RPCs have in common: how a call becomes a job and a job a reply."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ancestral.v1 import timing_pb2
from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.endpoint import OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import Job, OneShotJob, Priority, Streams
from ancestral_server.rpc.observed import request_id
from ancestral_server.rpc.parsing import Context
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array


def caller(context: Context) -> tuple[asyncio.Future[Any], float]:
    """What a job knows of the call: where to answer and until when."""
    remaining = context.time_remaining()
    deadline = math.inf if remaining is None else time.monotonic() + remaining
    return asyncio.get_running_loop().create_future(), deadline


async def run(
    endpoint: OneShotEndpoint | RasterEndpoint,
    context: Context,
    rows: int,
    inputs: Mapping[Meaning, Array | Streams],
    wanted: Sequence[Meaning],
    priority: Priority = Priority.INTERACTIVE,
) -> OneShotJob:
    """Ask a one-shot endpoint for `wanted` of so many rows of `inputs`."""
    assert isinstance(endpoint, OneShotEndpoint), "only `sample` may be a raster role; a bundle with another is refused"
    job = OneShotJob(rows, *caller(context), inputs=inputs, wanted=wanted, priority=priority)
    await endpoint.ask(job)
    return job


def image_shape(model: ModelVersion) -> tuple[int, int, int]:
    assert model.manifest is not None
    image = model.manifest.image
    return image.height, image.width, image.channels


def info(model: ModelVersion, job: Job) -> timing_pb2.ReplyInfo:
    """Who answered, and where the time went until now."""
    told = timing_pb2.ReplyInfo()
    tell(told, model, job)
    return told


def tell(info: timing_pb2.ReplyInfo, model: ModelVersion, job: Job) -> None:
    """Write into an empty `info`, which may be a field of a reply, who answered and where the time went until now."""
    now = time.monotonic()
    info.request_id = request_id.get()
    info.model = model.name
    info.version = model.version
    timing = info.timing
    timing.queue_seconds = job.queue_seconds
    # Of a stream that still runs, compute time is what has passed since it began.
    timing.compute_seconds = (job.finished or now) - job.started
    timing.total_seconds = now - job.submitted
