"""The engine of one process: each worker is a thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

from ancestral_client.bulk_jobs.job import Done, Job
from ancestral_client.bulk_jobs.servers import Servers
from ancestral_client.bulk_jobs.sources import Part
from ancestral_client.bulk_jobs.worker import Worker
from ancestral_client.cells import quiet_pictures


def run(
    job: Job, parts: Sequence[Part], servers: Servers, workers: int, rows: Callable[[int], None]
) -> Generator[Done, None, None]:
    """What became of each part, as they are done; `rows` is told how many more rows are answered.

    The first error ends all, and so does leaving the iteration. In the end the servers are stopped.
    """
    made = [Worker(job, servers, rows) for _ in range(min(workers, len(parts)))]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in made:
        free.put(worker)

    def do(part: Part) -> Done:
        worker = free.get()
        try:
            return worker.do(part)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="bulk-worker")
    with quiet_pictures():
        try:
            for future in as_completed([pool.submit(do, part) for part in parts]):
                yield future.result()
        finally:
            servers.stop()
            pool.shutdown(cancel_futures=True)
            for worker in made:
                worker.close()
