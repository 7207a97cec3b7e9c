"""What a sample costs: multiply-adds counted by hand and in the graph itself, and the card that tells."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from ancestral_exporter.cost import BATCHES, measure_cost
from ancestral_exporter.data import DataSettings, load
from ancestral_exporter.make import make
from ancestral_exporter.models.base import ImageModel, ImageShape, RasterGraph
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import Recipe, find
from ancestral_exporter.training import Options


def raster_of(model: ImageModel) -> RasterGraph:
    return next(graph for graph in model.graphs() if isinstance(graph, RasterGraph))


def test_multiply_adds_by_hand() -> None:
    shape = ImageShape(5, 4, 1, 3)
    settings = PixelCNNSettings(channels=6, vertical_layers=2, horizontal_layers=1, head_channels=7, first_pixels=3)
    model = GatedPixelCNN(shape, settings)
    vertical = (2 * 3 * 1 * 12 + 6 * 6) + (2 * 3 * 6 * 12 + 6 * 6) + 6 * 12  # two layers, one link
    horizontal = 3 * 1 * 12 + 6 * 6
    head = 6 * 7 + 7 * 3
    expected = {"vertical": 20 * vertical, "horizontal": 20 * horizontal, "head": 20 * head}
    assert raster_of(model).multiply_adds == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digits-pixelcnn", []),
        ("digits-pixelcnn", ["model.row_dilations=[2, 4, 1]", "model.column_dilations=[2]"]),
        ("digits-pixelcnn-conditional", []),
        ("tiles-pixelcnn", []),
    ],
)
def test_the_row_graph_multiplies_no_more(name: str, settings: list[str]) -> None:
    """Every weight matrix of the graph is there once: outside the Scan it meets a row's pixels, inside one pixel."""
    recipe = find(name, settings)
    model = recipe.build(load(recipe.data).image)
    graph = raster_of(model)
    built = graph.build().graph
    (scan,) = (node for node in built.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    pixels = model.image.height * model.image.width
    counted = [pixels * sum(map(np.size, gemm_weights(part))) for part in (built, body)]
    parts = graph.multiply_adds
    assert counted == [parts["vertical"], parts["horizontal"] + parts["head"]]


def gemm_weights(graph: onnx.GraphProto) -> list[np.ndarray[Any, Any]]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [constants[node.input[1]] for node in graph.node if node.op_type == "Gemm"]


@pytest.fixture
def small() -> Recipe:
    return find("digits-pixelcnn", ["model.channels=8", "model.head_channels=8", "schedule.epochs=0"])


def test_the_card_tells_worth_and_cost(small: Recipe, tmp_path: Path) -> None:
    bundle = make(small, tmp_path, None, Options(), Announcer(Console(file=io.StringIO()), "test")).path
    model = small.build(load(DataSettings("digits")).image)
    cost = measure_cost(model, bundle)
    assert cost is not None
    assert [timing.images for timing in cost.timings] == list(BATCHES)
    assert all(timing.sample_s > 0 and timing.pass_s > 0 for timing in cost.timings)
    section = (bundle / "CARD.md").read_text().split("## Cost of a sample")[1].split("##")[0]
    for text in ("bits/dim", f"{sum(cost.multiply_adds.values()) / 1e6:.2f} million", "| 1 |", "| 64 |", "cores"):
        assert text in section
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith(("| 1 ", "| 64 "))]
    for _, sampling, whole, ratio in rows:
        assert float(ratio.rstrip(" |")) == pytest.approx(float(sampling) / float(whole), rel=0.02, abs=0.06)


def test_a_vae_has_no_such_cost(tiny: Recipe, tmp_path: Path) -> None:
    assert measure_cost(tiny.build(load(DataSettings("digits")).image), tmp_path) is None
