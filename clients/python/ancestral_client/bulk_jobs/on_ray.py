"""The engine of many machines: Ray Data hands parts to actors, each of which is a worker with servers of its own.

The data set that Ray sees is that of the parts; rows never pass through it. What an actor does is the same however
often it is done, and there only once it is whole: an actor that dies is started again by Ray, and its part with it.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from ancestral_client import errors
from ancestral_client.bulk_jobs.job import Done, Job
from ancestral_client.bulk_jobs.servers import Servers
from ancestral_client.bulk_jobs.sources import Part
from ancestral_client.bulk_jobs.worker import Worker
from ancestral_client.cells import quiet_pictures
from ancestral_client.replacing import FileProblem, reason

LOCAL = "local"
"""The address that means a Ray of our own, which ends with the job."""

# A worker that asks servers elsewhere reads, decodes and waits; one whose server is its own runs the model, too.
_CPUS, _CPUS_WITH_SERVER = 0.5, 1.0
# What Ray itself runs beside the workers.
_CPUS_FOR_RAY = 1
# Parts and what became of them are all that Ray stores: its least, where it would take a third of the memory.
_STORE_BYTES = 80 * 2**20
# How long a cluster that does not answer is waited for; one that is there does so at once.
_CONNECT_SECONDS = 10.0


def run(
    job: Job, parts: Sequence[Part], workers: int, rows: Callable[[int], None], *, address: str, own_servers: bool
) -> Generator[Done, None, None]:
    """What became of each part, as they are done; `rows` is told of their rows. The first error ends all, and so does
    leaving the iteration. Unavailable where there is no Ray at the address, ServerFault where Ray fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its processes' own warnings, on stderr
    cpus = _CPUS_WITH_SERVER if own_servers else _CPUS
    _connect(address, max(os.cpu_count() or 1, math.ceil(workers * cpus) + _CPUS_FOR_RAY))
    stdout = sys.stdout
    try:
        sys.stdout = sys.stderr  # where Ray may say that a worker died
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = [{"part": pickle.dumps(part)} for part in parts]
        data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Actor,
            fn_constructor_args=(pickle.dumps(job),),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(parts))),
            num_cpus=cpus,
        )
        for row in data.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, Exception):
                raise outcome
            rows(outcome.rows)
            yield outcome
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1:]  # before it stand the frames of other processes
        raise errors.ServerFault(f"--engine ray: {type(error).__name__}: {''.join(last)}") from error
    finally:
        ray.shutdown()
        sys.stdout = stdout


def _connect(address: str, cpus: int) -> None:
    """Unavailable where that cannot be."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # CPUs enough for all workers, or those beyond would wait for ever for a place.
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        _look_for(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:  # as it says that nobody is there, or another version
        raise errors.Unavailable(f"--ray-address {address}: {reason(error)}", connected=False) from error


def _look_for(address: str) -> None:
    """OSError where nothing listens at HOST:PORT: Ray itself looked for more than three minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


class Actor:
    """A worker as Ray has it: parts in, and what became of them out; an error is such an outcome, too.

    Ray would tell an exception with the text of its own frames, and not as what it was.
    """

    def __init__(self, job: bytes) -> None:
        made: Job = pickle.loads(job)
        self._worker = Worker(made, Servers(made.places, made.wait_seconds))

    def __call__(self, batch: Any) -> Any:
        return pa.table({"outcome": [self._do(pickle.loads(part)) for part in batch.column("part").to_pylist()]})

    def _do(self, part: Part) -> bytes:
        try:
            with quiet_pictures():
                return pickle.dumps(self._worker.do(part))
        except (errors.AncestralError, FileProblem) as error:
            return pickle.dumps(error)
