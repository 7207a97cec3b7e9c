"""How close exact sampling comes to one parallel pass, and how far it leaves the naive loop behind.

Letters: N images, H, W, C image axes, K levels.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_client import Client
from ancestral_exporter.bundle.export import export_graphs
from ancestral_exporter.models.base import OneShotGraph
from ancestral_exporter.models.quantise import inverse_cdf, to_levels
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime, Session
from rig import CORES, Rig, sample, seconds

IMAGE = bundle_pb2.MEANING_IMAGE
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One batch size: medians over the repetitions; ratios are medians of what was timed side by side."""

    batch: int
    sample_seconds: float
    pass_seconds: float
    ratio: float
    speedup_naive_onnx: float
    speedup_naive_torch: float
    # How many pixels of the naive loops were timed; the rest is extrapolated, each costing one pass.
    naive_pixels_onnx: int
    naive_pixels_torch: int


def measure(rig: Rig, batches: list[int], repeats: int, naive_seconds: float, folder: Path) -> list[Row]:
    onnx_logits = _onnx_logits(rig, folder)
    # A loop of its own for every timing would be timed too.
    with asyncio.Runner() as runner:
        return [_row(rig, runner, batch, repeats, naive_seconds, onnx_logits) for batch in batches]


def _row(rig: Rig, runner: asyncio.Runner, batch: int, repeats: int, naive_seconds: float, onnx_logits: Logits) -> Row:
    score = rig.version.programs["score"]
    assert isinstance(score, OneShotProgram)
    images = np.zeros((batch, *rig.shape), np.uint8)

    @torch.no_grad()
    def torch_logits(images: Tensor) -> Tensor:
        return rig.model.level_logits(to_levels(images, rig.model.image.levels))

    def one_pass() -> None:
        score.run({IMAGE: images}, [LOG_LIKELIHOOD])

    def one_sampling() -> None:
        runner.run(sample(rig.lane, batch))

    one_pass()
    one_sampling()
    pairs = [(seconds(one_sampling), seconds(one_pass)) for _ in range(repeats)]
    sampling = statistics.median(pair[0] for pair in pairs)
    by_onnx, pixels_onnx = _naive_seconds(onnx_logits, batch, rig, naive_seconds)
    by_torch, pixels_torch = _naive_seconds(torch_logits, batch, rig, naive_seconds)
    return Row(
        batch=batch,
        sample_seconds=sampling,
        pass_seconds=statistics.median(pair[1] for pair in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
        speedup_naive_onnx=by_onnx / sampling,
        speedup_naive_torch=by_torch / sampling,
        naive_pixels_onnx=pixels_onnx,
        naive_pixels_torch=pixels_torch,
    )


def _naive_seconds(logits_of: Logits, batch: int, rig: Rig, limit: float) -> tuple[float, int]:
    """Seconds of the plain loop, one full pass per pixel, and how many of its pixels were run in `limit` seconds."""
    images = torch.zeros((batch, *rig.shape), dtype=torch.uint8)
    uniforms = torch.rand((batch, *rig.shape))
    places = [(r, c, k) for r in range(rig.shape[0]) for c in range(rig.shape[1]) for k in range(rig.shape[2])]
    logits_of(images)
    began = time.perf_counter()
    for done, (r, c, k) in enumerate(places, start=1):
        levels = inverse_cdf(logits_of(images)[:, r, c, k], uniforms[:, r, c, k])
        images[:, r, c, k] = levels.to(torch.uint8) * (255 // (rig.model.image.levels - 1))
        spent = time.perf_counter() - began
        if spent > limit and done >= 2:
            break
    return spent * len(places) / done, done


class _Logits(nn.Module):
    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.model = rig.model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.level_logits(to_levels(image, self.model.image.levels))


def _onnx_logits(rig: Rig, folder: Path) -> Logits:
    """All logits [N,H,W,C,K] of images in one onnxruntime run."""
    image = rig.model.image
    spec = bundle_pb2.TensorSpec
    shape = [image.height, image.width, image.channels]
    byte, real = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_FLOAT32
    role = bundle_pb2.Role(
        name="logits",
        program=bundle_pb2.PROGRAM_ONE_SHOT,
        graph="logits.onnx",
        inputs=[spec(name="image", meaning=IMAGE, dtype=byte, shape=shape)],
        outputs=[spec(name="logits", meaning=bundle_pb2.MEANING_FEATURE_MAP, dtype=real, shape=[*shape, image.levels])],
    )
    export_graphs([OneShotGraph("logits.onnx", [role], _Logits(rig))], folder)
    session: Session = Runtime("cpu", CORES).open(folder / "logits.onnx")

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])

    return logits


def through_server(rig: Rig, address: str, batch: int, repeats: int) -> dict[str, Any]:
    """One request for `batch` images through gRPC beside the engine in this process, in turn."""
    name = rig.version.name
    with Client(address, timeout=600) as client, asyncio.Runner() as runner:
        client.sample(name, batch, seed=0)
        pairs = [
            (seconds(lambda: client.sample(name, batch, seed=0)), seconds(lambda: runner.run(sample(rig.lane, batch))))
            for _ in range(repeats)
        ]
    return {
        "batch": batch,
        "server_seconds": statistics.median(pair[0] for pair in pairs),
        "engine_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def beside(rig: Rig, other: Rig, batches: list[int], repeats: int) -> list[dict[str, Any]]:
    """By batch: CPU seconds of all threads to sample from another net and from that of the rig, in turn, and their
    ratio; all medians. What differs may be a few per cent, less than what the clock sees of others on the machine.
    """
    rows = []
    with asyncio.Runner() as runner:

        def one_sampling(net: Rig, batch: int) -> float:
            began = time.process_time()
            runner.run(sample(net.lane, batch))
            return time.process_time() - began

        for batch in batches:
            one_sampling(other, batch)
            one_sampling(rig, batch)
            pairs = [(one_sampling(other, batch), one_sampling(rig, batch)) for _ in range(repeats)]
            rows.append(
                {
                    "batch": batch,
                    "other_cpu_seconds": statistics.median(pair[0] for pair in pairs),
                    "cpu_seconds": statistics.median(pair[1] for pair in pairs),
                    "ratio": statistics.median(a / b for a, b in pairs),
                }
            )
    return rows
