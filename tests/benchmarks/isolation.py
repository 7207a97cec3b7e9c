"""Single-image Encode while a PixelCNN of the same server paints as much as it can: what it costs the encoder.

Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc, priority_pb2, tensor_pb2
from rig import untrained
from running import ServerProcess, heed_sigterm

ENCODER, SAMPLER = "mnist-vae", "mnist-pixelcnn"

# Samples asked for at a time while the sampler is saturated: more than it has slots.
STREAMS, SAMPLES = 4, 2_000


@dataclass(frozen=True)
class Latency:
    """Seconds of single-image Encode calls, one after the other."""

    calls: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Isolation:
    """Medians over the rounds; `ratio` is that of the p99s that were measured side by side."""

    idle: Latency
    saturated: Latency
    ratio: float
    ratios: list[float]
    sampled_images_per_second: float


def measure(address: str, *, encoder: str, sampler: str, seconds: float, rounds: int) -> Isolation:
    """Both in turn, `seconds` each, against a running server."""
    return asyncio.run(_measure(address, encoder, sampler, seconds, rounds))


async def _measure(address: str, encoder: str, sampler: str, seconds: float, rounds: int) -> Isolation:
    async with grpc.aio.insecure_channel(address) as channel, grpc.aio.insecure_channel(address) as other:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        sampling = inference_service_pb2_grpc.InferenceServiceStub(other)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        image = (await models.GetModel(model_service_pb2.GetModelRequest(name=encoder))).model.bundle.image
        shape = (1, image.height, image.width, image.channels)
        tensor = tensor_pb2.Tensor(
            dtype=tensor_pb2.DATA_TYPE_UINT8, shape=shape, data=np.zeros(shape, np.uint8).tobytes()
        )
        request = pb.EncodeRequest(model=encoder, images=tensor)

        async def encode() -> object:
            return await stub.Encode(request, timeout=120)

        await _latency(encode, 0.5)
        idle, saturated, rates = [], [], []
        for round_ in range(rounds):
            idle.append(await _latency(encode, seconds))
            painted = [0]
            streams = [asyncio.create_task(_paint(sampling, sampler, round_ + i, painted)) for i in range(STREAMS)]
            while not painted[0]:
                assert not any(stream.done() for stream in streams), "the sampler does not paint"
                await asyncio.sleep(0.01)
            began, before = time.perf_counter(), painted[0]
            saturated.append(await _latency(encode, seconds))
            rates.append((painted[0] - before) / (time.perf_counter() - began))
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await asyncio.sleep(0.3)
    ratios = [busy.p99 / alone.p99 for alone, busy in zip(idle, saturated, strict=True)]
    return Isolation(_median(idle), _median(saturated), float(np.median(ratios)), ratios, float(np.median(rates)))


async def _latency(call: Callable[[], Awaitable[object]], seconds: float) -> Latency:
    """Of calls one after the other, for so long."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await call()
        taken.append(time.perf_counter() - began)
    return Latency(len(taken), float(np.quantile(taken, 0.5)), float(np.quantile(taken, 0.99)))


async def _paint(
    stub: inference_service_pb2_grpc.InferenceServiceAsyncStub, model: str, seed: int, painted: list[int]
) -> None:
    """Keep slots busy until cancelled; counts finished images in `painted`."""
    while True:
        sample = pb.SampleRequest(model=model, count=SAMPLES, seed=seed, priority=priority_pb2.PRIORITY_BATCH)
        async for _ in stub.SampleStream(pb.SampleStreamRequest(sample=sample)):
            painted[0] += 1


def _median(runs: list[Latency]) -> Latency:
    return Latency(
        sum(run.calls for run in runs),
        float(np.median([run.p50 for run in runs])),
        float(np.median([run.p99 for run in runs])),
    )


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often both take turns")
    parser.add_argument("--encoder", default=ENCODER, help="recipe of the model that is timed")
    parser.add_argument("--sampler", default=SAMPLER, help="recipe of the model that paints beside it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the server computes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary)
        for recipe in (options.encoder, options.sampler):
            untrained(recipe, models)
        with ServerProcess(models, "--device", options.device) as server:
            found = measure(
                server.address,
                encoder=options.encoder,
                sampler=options.sampler,
                seconds=options.seconds,
                rounds=options.rounds,
            )
    print(json.dumps(asdict(found), indent=2))


if __name__ == "__main__":
    main()
