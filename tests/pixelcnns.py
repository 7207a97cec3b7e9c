"""Small PixelCNNs, and the server's engine on them in this process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ancestral_exporter.bundle import write_bundle
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.endpoint import EndpointSettings, RasterEndpoint, raster_endpoint
from ancestral_server.engine.policy import Immediate
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.session import Runtime

# Tests of what is painted ask for more than a server would let wait.
UNBOUNDED = Limits(images=10**7, calls=10**7, seconds=math.inf)


def sharp_pixelcnn(
    shape: ImageShape,
    *,
    seed: int = 1,
    label_count: int = 0,
    sharpness: float = 8.0,
    row_dilations: tuple[int, ...] = (1,),
) -> GatedPixelCNN:
    """A small untrained net with pronounced preferences: each draw depends on all before it, and there are no ties."""
    torch.manual_seed(seed)
    settings = PixelCNNSettings(
        channels=16, vertical_layers=3, horizontal_layers=2, label_count=label_count, row_dilations=row_dilations
    )
    model = GatedPixelCNN(shape, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.logits"):
                parameter.mul_(sharpness).add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def exported(model: GatedPixelCNN, folder: Path, name: str = "toy") -> Path:
    """Write a bundle of the model and return its folder."""
    image = model.image
    golden = np.zeros((2, image.height, image.width, image.channels), np.uint8)
    labels = np.zeros(2, np.int64) if model.label_count else None
    return write_bundle(model, name=name, models_dir=folder, golden_images=golden, golden_labels=labels)


@contextmanager
def raster_lane(bundle_folder: Path, *, slots: int, workers: int) -> Iterator[RasterEndpoint]:
    """The lane of the bundle's `sample` role, running."""
    bundle = read_bundle(bundle_folder)
    role = next(role for role in bundle.manifest.roles if role.name == "sample")
    program = OnnxRasterProgram(role, Runtime("cpu", 1).open(bundle.graph(role), on_caller=True), bundle.manifest)
    settings = EndpointSettings(UNBOUNDED, max_batch=1, slots=slots, policy=Immediate, pool=WorkerPool(workers))
    endpoint = raster_endpoint("toy", program, Metrics("test").lanes.make("toy", 1, "sample"), settings)
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.close()
