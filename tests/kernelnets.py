"""Small PixelCNNs of every shape that a recipe can declare, and what their kernel has to paint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from ancestral.v1 import bundle_pb2
from ancestral_exporter.kernels.form import packed_net
from ancestral_exporter.kernels.packing import Packed
from ancestral_exporter.models.base import ImageShape, RasterGraph
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_exporter.models.row_graph import Array
from ancestral_exporter.models.values import MIXTURE
from rasters import feeds_of, torch_feeds


@dataclass(frozen=True)
class Net:
    """What a net is made of."""

    shape: ImageShape
    options: dict[str, Any]
    seed: int = 0

    def model(self) -> GatedPixelCNN:
        """An untrained net whose pixels depend strongly on each other."""
        torch.manual_seed(self.seed)
        model = GatedPixelCNN(self.shape, PixelCNNSettings(**self.options)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("head.logits"):
                    parameter.mul_(4).add_(torch.randn_like(parameter), alpha=0.3)
                elif name.endswith("window.bias"):
                    parameter.normal_(std=0.3)
                elif "window" in name:
                    parameter.mul_(2)
        return model


@dataclass(frozen=True)
class Expected:
    """A net, packed, inputs for whole images in the role's order, and what `sample_by_passes` makes of them."""

    packed: Packed
    inputs: list[Array]
    images: Array
    log_likelihood: Array


def expected(net: Net, images: int) -> Expected:
    """By way of the net's row graph, as a bundle's kernel is made."""
    model, shape = net.model(), net.shape
    graph = model.row_graph()
    feeds = feeds_of(graph, shape, images, model.label_count, seed=net.seed)
    painted, scores = model.sample_by_passes(*torch_feeds(feeds))
    return Expected(
        packed_of(graph, shape), [feeds[spec.name] for spec in graph.role.inputs], painted.numpy(), scores.numpy()
    )


def packed_of(graph: RasterGraph, shape: ImageShape) -> Packed:
    image = bundle_pb2.ImageSpec(height=shape.height, width=shape.width, channels=shape.channels, levels=shape.levels)
    return packed_net(graph.build(), graph.role, image)


def worst(got: Array, wanted: Array) -> float:
    """The largest difference, relative to 1 and the value."""
    return float(np.max(np.abs(got - wanted) / (1 + np.abs(wanted)), initial=0))


@st.composite
def nets(draw: st.DrawFn) -> Net:
    """Every setting of the family "pixelcnn" but dropout, which a trained net has none of."""
    whole = st.integers
    levels = draw(st.sampled_from((2, 2, 3, 17, 256)))
    shape = ImageShape(draw(whole(1, 7)), draw(whole(1, 9)), draw(st.sampled_from((1, 1, 2, 3))), levels)
    vertical = draw(whole(1, 5))
    options: dict[str, Any] = {
        "channels": draw(st.sampled_from((6, 8, 20, 33, 64, 72))),
        "vertical_layers": vertical,
        "horizontal_layers": draw(whole(1, vertical)),
        "head_channels": draw(st.sampled_from((None, 5, 16, 40))),
        "first_window": (draw(whole(1, 3)), draw(st.sampled_from((1, 3, 5)))),
        "first_pixels": draw(whole(1, 4)),
        "row_dilations": tuple(draw(st.lists(whole(1, max(1, shape.height - 1)), min_size=1, max_size=3))),
        "column_dilations": tuple(draw(st.lists(whole(1, max(1, shape.width - 1)), min_size=1, max_size=3))),
        "one_hot": draw(st.booleans()) and levels < 256,
        "label_count": draw(st.sampled_from((0, 0, 3))),
    }
    if levels > 2 and draw(st.booleans()):
        options |= {"likelihood": MIXTURE, "mixtures": draw(st.sampled_from((None, 1, 3)))}
    return Net(shape, options, draw(whole(0, 2**16)))
