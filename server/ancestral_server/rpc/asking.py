"""The one way to have a lane do something: a job of a call, submitted and waited for, and what its reply says of it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol, TypeVar

from ancestral.v1 import timing_pb2
from ancestral_server.engine.job import Job, OneShotJob
from ancestral_server.errors import DeadlineExceeded, Overloaded
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.recording import current

# To derive an answer takes some 5 µs a row on one core, most of it the noise of z: more rows are left to a thread, so
# that no call holds the event loop up for much longer than a millisecond.
MOST_DERIVED_ROWS = 256
# The lane says when a retry may fit; others may leave it sooner.
LONGEST_PAUSE_SECONDS = 1.0

J = TypeVar("J", bound=Job)
Takes = TypeVar("Takes", bound=Job, contravariant=True)


class Lane(Protocol[Takes]):
    """What takes jobs: the endpoint of a role, or one of its lanes."""

    def submit(self, job: Takes) -> None:
        """Take a job, or raise what it is refused with."""


def caller(context: Context, timeout: float = math.inf) -> tuple[asyncio.Future[None], float]:
    """What a job knows of the call: where to answer, and until when, at most `timeout` seconds from now."""
    remaining = context.time_remaining()
    seconds = timeout if remaining is None else min(remaining, timeout)
    return asyncio.get_running_loop().create_future(), time.monotonic() + seconds


def submit(lane: Lane[J], job: J) -> J:
    """Have a lane take a job. Unavailable, Overloaded or Infeasible if it does not."""
    call = current.get()
    if call.visit is not None:
        call.visit.check()
    call.recorder.asked(call, job)
    lane.submit(job)
    call.recorder.admitted(call, job)
    return job


async def submit_patiently(lane: Lane[J], job: J) -> J:
    """`submit`, but a full lane is waited for: who sends a stream feels it as backpressure. DeadlineExceeded if it is
    full until the job's time is up.
    """
    while True:
        try:
            return submit(lane, job)
        except Overloaded as full:
            left = job.deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"the deadline passed before there was room: {full}") from None
            await asyncio.sleep(min(full.retry_seconds, LONGEST_PAUSE_SECONDS, left))


async def answered(job: J) -> J:
    """A job that was submitted, once it is done; ServerError if it expires or fails."""
    call = current.get()
    try:
        await job.answer()
    except BaseException:
        call.recorder.lost(call, job)
        raise
    if isinstance(job, OneShotJob) and job.derived:
        await _derive(job)
    call.recorder.ran(call, job)
    return job


async def ask(lane: Lane[J], job: J) -> J:
    """A job, done. ServerError if it is refused, expires or fails."""
    # As `submit` and `answered`, in one: nearly every call comes this way.
    call = current.get()
    if call.visit is not None:
        call.visit.check()
    recorder = call.recorder
    recorder.asked(call, job)
    lane.submit(job)
    recorder.admitted(call, job)
    try:
        await job.answer()
    except BaseException:
        recorder.lost(call, job)
        raise
    if isinstance(job, OneShotJob) and job.derived:
        await _derive(job)
    recorder.ran(call, job)
    return job


def give_up(job: Job) -> None:
    """Nobody waits any more for the answer of a job that was submitted."""
    job.leave()
    call = current.get()
    call.recorder.lost(call, job)


async def _derive(job: OneShotJob) -> None:
    """Make what is derived of the outputs of a job that is done."""
    if job.rows > MOST_DERIVED_ROWS:
        await asyncio.to_thread(job.derive)
    else:
        job.derive()


def fill_info(info: timing_pb2.ReplyInfo, model: str, version: int, job: Job) -> None:
    """Write into an empty `info`, a reply's, who answered and where the time went until now."""
    now = time.monotonic()
    info.request_id = current.get().request_id
    info.model = model
    info.version = version
    timing = info.timing
    timing.queue_seconds = job.queue_seconds
    # Of a stream that still runs, compute time is what has passed since it began.
    timing.compute_seconds = (job.finished or now) - job.started
    timing.total_seconds = now - job.submitted
    timing.batch_size = job.batch_size
