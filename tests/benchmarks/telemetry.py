"""What the metrics say beside what callers see: p99 at three loads, and what a scrape of twenty models takes.

Each call brings a request id, by which the server's own seconds of it are found in the log of calls: what the histogram
was told. What a caller waits beside that (its own program, the network, gRPC) is the caller's own; its median is taken
off. Prints a table, or JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import toybundle
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral_client import Client
from ancestral_server.metrics import SECONDS_BUCKETS
from running import PATIENT, ServerProcess, heed_sigterm
from waiting import until
from wire import tensor, toy_images

METHOD = 'grpc_method="Encode"'
# Between two scrapes, longer than the server makes the next wait.
PAUSE_SECONDS = 0.5


def counts(text: str) -> list[float]:
    """The calls of Encode up to each bucket's bound, of a scrape."""
    lines = [
        line for line in text.splitlines() if line.startswith("grpc_server_handling_seconds_bucket") and METHOD in line
    ]
    return [float(line.rpartition(" ")[2]) for line in lines] or [0.0] * (len(SECONDS_BUCKETS) + 1)


def bucket_of_quantile(upto: Sequence[float], q: float) -> int:
    """The number of the bucket that a quantile lies in. upto: calls up to each bound."""
    return next(bucket for bucket, count in enumerate(upto) if count >= q * upto[-1])


def bucket(seconds: float) -> int:
    return bisect_left(SECONDS_BUCKETS, seconds)


def quantile(seconds: Sequence[float], q: float) -> float:
    """The value that a share q of them does not exceed, as a histogram counts."""
    return sorted(seconds)[max(0, int(np.ceil(q * len(seconds))) - 1)]


def load(server: ServerProcess, callers: int, calls: int) -> dict[str, Any]:
    """So many calls of Encode, by so many callers at a time, as they see them and as the server does."""
    image = pb.EncodeRequest(model="tally", images=tensor(toy_images(1)))
    heard: dict[str, float] = {}
    before = counts(server.metrics())

    def call(number: int) -> None:
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            for turn in range(calls // callers):
                name = f"{callers}-{number}-{turn}"
                began = time.perf_counter()
                stub.Encode(image, metadata=(("x-request-id", name),))
                heard[name] = time.perf_counter() - began

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took: dict[str, float] = {}

    def logged() -> bool:
        lines = (json.loads(line) for line in list(server.log) if '"request_id"' in line)
        took.update({line["request_id"]: line["seconds"] for line in lines if line["request_id"] in heard})
        return len(took) == len(heard)

    until(logged)
    upto = [after - earlier for after, earlier in zip(counts(server.metrics()), before, strict=True)]
    own = statistics.median(heard[name] - took[name] for name in heard)
    client = quantile(list(heard.values()), 0.99)
    return {
        "callers": callers,
        "calls": len(heard),
        "counted": upto[-1],
        "client_p99_ms": 1e3 * client,
        "client_own_ms": 1e3 * own,
        "server_p99_ms": 1e3 * quantile(list(took.values()), 0.99),
        "server_bucket": bucket(quantile(list(took.values()), 0.99)),
        "histogram_p99_ms": 1e3 * SECONDS_BUCKETS[bucket_of_quantile(upto, 0.99)],
        "histogram_bucket": bucket_of_quantile(upto, 0.99),
        "buckets_from_client": bucket(client - own) - bucket_of_quantile(upto, 0.99),
        "least_client_own_ms": 1e3 * min(heard[name] - took[name] for name in heard),
    }


def scrape(folder: Path, models: int, scrapes: int) -> dict[str, Any]:
    """What a scrape holds and takes once each role of so many models has been called, and has all of its series."""
    for number in range(models):
        toybundle.write(folder, f"tally-{number}")
    with ServerProcess(folder, *PATIENT) as server, Client(server.address) as client:
        image = np.zeros((64, toybundle.HEIGHT, toybundle.WIDTH, 1), np.uint8)
        for number in range(models):
            client.encode(f"tally-{number}", image)
            client.score(f"tally-{number}", image)
            client.sample(f"tally-{number}", 2)
        text, seconds = "", []
        for _ in range(scrapes):
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            text = server.metrics()
            seconds.append(time.perf_counter() - began)
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        "models": models,
        "samples": len(samples),
        "samples_by_model": sum('model="tally-0"' in line for line in samples),
        "bytes": len(text),
        "median_ms": 1e3 * statistics.median(seconds),
        "slowest_ms": 1e3 * max(seconds),
    }


def measure(folder: Path, callers: Sequence[int], calls: int, models: int, scrapes: int) -> dict[str, Any]:
    (folder / "one").mkdir()
    toybundle.write(folder / "one")
    with ServerProcess(folder / "one", *PATIENT, "--log-calls", "true", "--log-format", "json") as server:
        loads = [load(server, each, calls) for each in callers]
    (folder / "many").mkdir()
    return {"loads": loads, "scrape": scrape(folder / "many", models, scrapes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", default="1,4,16", help="loads, as callers at a time (1,4,16)")
    parser.add_argument("--calls", type=int, default=4000, help="calls of each load (4000)")
    parser.add_argument("--models", type=int, default=20, help="models of the scrape (20)")
    parser.add_argument("--scrapes", type=int, default=20, help="scrapes (20)")
    arguments = parser.parse_args()
    heed_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        callers = [int(each) for each in arguments.callers.split(",")]
        report = measure(Path(folder), callers, arguments.calls, arguments.models, arguments.scrapes)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
