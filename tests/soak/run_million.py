"""`make million`: a million images through `Client.encode`, beside what EncodeStream carries without our client.

Both in turn, round by round, in a process of its own, so that its memory is the client's alone. Exit code 1 if the
client is below 80 % of the raw stream, or it or the server keeps memory that is not the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc
from ancestral.v1.priority_pb2 import PRIORITY_BATCH
from ancestral_client import Client
from ancestral_client.bulk import MESSAGE_SIZE
from running import ServerProcess, heed_sigterm
from watching import usage
from wire import Array, tensor

LEAST_SHARE = 0.8
# What allocators and gRPC's buffers breathe by; a leak of one image of 64 bytes in each of a million is 61 MiB.
SPARE_MIB = 24.0
_LOOKS = 20


def through_the_client(address: str, model: str, images: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Rates in images/s of each round, and the memory of this process in MiB: while it encodes, without the answer so
    far, and after.
    """
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        pixels = np.random.default_rng(0).integers(0, 256, (images, *client.model(model).image_shape), np.uint8)
        for _ in range(rounds):
            raw = _timed(lambda: _raw(stub, model, pixels)) / images
            looks: list[tuple[int, float]] = []
            step = max(1, images // _LOOKS)

            def look(done: int, total: int | None, looks: list[tuple[int, float]] = looks, step: int = step) -> None:
                if done >= step * (len(looks) + 1):
                    looks.append((done, usage(os.getpid()).rss_mib))

            began = time.perf_counter()
            answer = client.encode(model, pixels, progress=look)
            encode = (time.perf_counter() - began) / images
            arrays = [array for array in (answer.mean, answer.log_variance) if array is not None]
            row_mib = sum(array.nbytes for array in arrays) / images / 2**20
            yield {
                "raw_rate": 1 / raw,
                "encode_rate": 1 / encode,
                "answered": len(answer.mean),
                "during_mib": [rss - done * row_mib for done, rss in looks],
            }
            del answer, arrays


def _raw(stub: inference_service_pb2_grpc.InferenceServiceStub, model: str, pixels: Array) -> None:
    """The same images by gRPC alone: whatever it sends ahead, and answers as they come, not even unpacked."""

    def messages() -> Iterator[pb.EncodeStreamRequest]:
        for start in range(0, len(pixels), MESSAGE_SIZE):
            part = tensor(pixels[start : start + MESSAGE_SIZE])
            yield pb.EncodeStreamRequest(encode=pb.EncodeRequest(model=model, images=part, priority=PRIORITY_BATCH))

    answered = sum(reply.encode.mean.shape[0] for reply in stub.EncodeStream(messages()))
    assert answered == len(pixels), f"{answered} of {len(pixels)} images were answered"


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def million(server: ServerProcess, model: str, images: int, rounds: int) -> dict[str, Any]:
    """The figures of all rounds: `failures` is empty where all is well, and `slow` says whether the rate is not."""
    job = [server.address, model, str(images), str(rounds)]
    before = usage(server.process.pid).rss_mib
    child = subprocess.Popen(
        [sys.executable, __file__, "--client", *job],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    found, servers = [], [before]
    for line in child.stdout:
        found.append(json.loads(line))
        servers.append(usage(server.process.pid).rss_mib)
    if child.wait():
        raise RuntimeError(f"the client ended with {child.returncode}")
    share = median(each["encode_rate"] / each["raw_rate"] for each in found)
    return {
        "images": images,
        "raw_images_per_second": median(each["raw_rate"] for each in found),
        "encode_images_per_second": median(each["encode_rate"] for each in found),
        "share": share,
        "client_mib": [[round(rss) for rss in each["during_mib"]] for each in found],
        "server_mib": [round(rss) for rss in servers],
        "failures": failures(found, servers, images),
        "slow": share < LEAST_SHARE,
    }


def failures(rounds: list[dict[str, Any]], servers: list[float], images: int) -> list[str]:
    """What was not answered, and whose memory grew: of the client within each round, of the server after the first."""
    found = [f"{each['answered']} of {images} images" for each in rounds if each["answered"] != images]
    for number, each in enumerate(rounds):
        looks = each["during_mib"]
        # The first looks see what every call needs, and what numpy and gRPC have not yet needed before.
        if looks and max(looks[len(looks) // 4 :]) > looks[len(looks) // 4] + SPARE_MIB:
            found.append(f"round {number}: the client's memory without its answer grew: {looks} MiB")
    if len(servers) > 2 and servers[-1] > servers[1] + SPARE_MIB:
        found.append(f"the server's memory grew: {servers} MiB")
    return found


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.client is not None:
        address, model, images, rounds = flags.client
        for each in through_the_client(address, model, int(images), int(rounds)):
            print(json.dumps(each), flush=True)
        return
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from rig import untrained  # imports torch

    with tempfile.TemporaryDirectory() as folder:
        untrained("digits-vae", Path(folder))
        with ServerProcess(Path(folder)) as server:
            report = million(server, "digits-vae", flags.images, flags.rounds)
    print(json.dumps(report, indent=2))
    sys.exit(bool(report["failures"]) or report["slow"])


if __name__ == "__main__":
    main()
