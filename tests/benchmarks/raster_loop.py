"""What the sampler's own loop costs, by a program that answers at once: everything but the painting.

    python raster_loop.py [--repeats 7]

Samples of 28×28 through the real lane, scheduler and slots: noise, the states of who paints, telling, handing out. Each
figure is the median of several, in milliseconds that one core computes: what others do meanwhile on the machine is not
counted, though a core that is shared computes more slowly. *Overlapping* is the loop of a GPU, most of which is done
while a row is being painted; *in turn* that of a graph on the CPU, whose arrays it gathers for each row.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2, tensor_pb2
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.endpoint import EndpointSettings, RasterEndpoint, raster_endpoint
from ancestral_server.engine.job import RasterJob
from ancestral_server.engine.policy import Immediate
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.kernels.program import KernelPainting, KernelProgram, span
from ancestral_server.runtime.onnx_raster import OnnxPainting
from ancestral_server.runtime.program import Meaning, Painting, RasterProgram

Array = np.ndarray[Any, Any]
SHAPE = (28, 28, 1)
# An eighth of the slots is for calls that have none yet: so many hold 1,024 samples of one call.
SLOTS = 1171
COUNTS = (1024, 1)


def role() -> bundle_pb2.Role:
    """A sampler's, with the tensors of `mnist-pixelcnn`."""
    row, spec = SHAPE[1:], bundle_pb2.TensorSpec
    u8, real, flag = tensor_pb2.DATA_TYPE_UINT8, tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_BOOL
    return bundle_pb2.Role(
        name="sample",
        inputs=[
            spec(name="given", meaning=bundle_pb2.MEANING_GIVEN, dtype=u8, shape=row),
            spec(name="known", meaning=bundle_pb2.MEANING_KNOWN, dtype=flag, shape=row),
            spec(name="uniforms", meaning=bundle_pb2.MEANING_UNIFORMS, dtype=real, shape=row),
            spec(name="temperature", meaning=bundle_pb2.MEANING_TEMPERATURE, dtype=real),
        ],
        outputs=[
            spec(name="row", meaning=bundle_pb2.MEANING_ROW, dtype=u8, shape=row),
            spec(name="log_likelihood", meaning=bundle_pb2.MEANING_LOG_LIKELIHOOD, dtype=real),
        ],
    )


class AtOnce(RasterProgram):
    """Paints black rows, in no time."""

    form = "none"

    def __init__(self, *, overlaps: bool) -> None:
        height, width, channels = SHAPE
        image = bundle_pb2.ImageSpec(height=height, width=width, channels=channels, levels=2)
        super().__init__(role(), bundle_pb2.Bundle(image=image))
        self.overlaps = overlaps
        self.rows_back: tuple[int, ...] = ()
        places = KernelProgram.places(SLOTS)
        self._rows = np.zeros((places, *SHAPE[1:]), np.uint8), np.zeros(places, np.float32)
        self._inputs = {
            meaning: np.zeros((places, *(SHAPE if spec.shape else ())), self.blank(meaning, 0).dtype)
            for meaning, spec in self.inputs.items()
        }

    def painting(self, places: int) -> Painting:
        return KernelPainting(self, places) if self.overlaps else OnnxPainting(self, places)  # type: ignore[arg-type]

    def fresh_states(self, rows: int) -> list[Array]:
        return []

    def run_row(self, inputs: Mapping[Meaning, Array], states: Sequence[Array]) -> tuple[Array, Array, list[Array]]:
        count = len(inputs[bundle_pb2.MEANING_TEMPERATURE])
        row, likelihood = self._rows
        return row[:count], likelihood[:count], []

    # ---- as a kernel, for its painting: inputs are copied once, whole

    def put(self, places: Array, inputs: Mapping[Meaning, Array]) -> None:
        for meaning, array in inputs.items():
            self._inputs[meaning][span(places)] = array

    def begin(self, places: Array, rows: Array) -> None:
        """It is painted."""

    def end(self, places: Array, rows: Array) -> tuple[Array, Array]:
        row, likelihood = self._rows
        return row[places], likelihood[places]


def lane(*, overlaps: bool) -> RasterEndpoint:
    unbounded = Limits(images=10**7, calls=10**7, seconds=math.inf)
    settings = EndpointSettings(unbounded, max_batch=1, slots=SLOTS, policy=Immediate, pool=WorkerPool(1))
    program = AtOnce(overlaps=overlaps)
    return raster_endpoint("none", program, Metrics("bench").lanes.make("none", 1, "sample"), settings)


async def milliseconds(endpoint: RasterEndpoint, count: int, seed: int) -> float:
    """What a call for so many samples costs all threads, from its admission to its answer."""
    began = time.process_time()
    job = RasterJob(rows=count, future=asyncio.get_running_loop().create_future(), seed=seed)
    await ask(endpoint, job)
    took = time.process_time() - began
    assert job.done == count
    return took * 1000


def measure(repeats: int) -> dict[str, dict[int, float]]:
    """By kind of loop and number of samples, the median."""
    found: dict[str, dict[int, float]] = {}
    for name, overlaps in (("overlapping", True), ("in turn", False)):
        endpoint = lane(overlaps=overlaps)
        endpoint.start()

        async def all_counts(endpoint: RasterEndpoint = endpoint) -> dict[int, float]:
            medians = {}
            for count in COUNTS:
                seen = [await milliseconds(endpoint, count, seed) for seed in range(1 + repeats)]
                medians[count] = statistics.median(seen[1:])
            return medians

        try:
            found[name] = asyncio.run(all_counts())
        finally:
            endpoint.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="of each figure, after one that warms up")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats: must be at least 1 (got {options.repeats})")
    print(f"{'loop':12} {'samples':>8} {'ms':>8}")
    for name, medians in measure(options.repeats).items():
        for count, median in medians.items():
            print(f"{name:12} {count:8,} {median:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
