"""How a lane's threads tell the event loop: one post per batch, and nobody is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from ancestral_server.engine.job import Job
from ancestral_server.errors import ServerError

log = structlog.get_logger()


def post(jobs: Sequence[Job], message: Callable[[], None]) -> None:
    """Run `message` about these jobs on their event loop."""
    if not jobs:
        return
    try:
        jobs[0].future.get_loop().call_soon_threadsafe(message)
    except RuntimeError:
        # The event loop is gone, and with it everybody who could have waited.
        log.warning("nobody is told: the event loop is closed", jobs=len(jobs))


def settle(jobs: Sequence[Job], error: ServerError | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if error is None:
            # Not the job: it and its future would keep each other, and what they hold, until garbage is collected.
            job.future.set_result(None)
        else:
            job.future.set_exception(error)
