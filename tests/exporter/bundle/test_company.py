"""An image's answer is PyTorch's, and bitwise the same alone and in company.

In company: at any place in a batch, with any number of threads. Of odd images here, by every family and likelihood; of
every recipe in integration/test_recipes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ancestral_exporter.bundle.export import export_graphs, graph_roles
from ancestral_exporter.bundle.feeds import make_feeds, original_answers
from ancestral_exporter.bundle.reductions import fix_order
from ancestral_exporter.bundle.runtime import open_session, run_role
from ancestral_exporter.bundle.verify import random_subjects
from ancestral_exporter.models.base import ImageModel, ImageShape, OneShotGraph
from ancestral_exporter.recipes import Recipe, find, shipped
from ancestral_server.runtime.bundle import read_bundle
from company import check

ZOO = Path(__file__).parents[3] / "exporter" / "zoo"
# Images that are asked about alone; greater batches go round.
IMAGES = 13
# No multiple of a vector's width, so that batches end within vectors and images begin anywhere in them.
ODD = ImageShape(5, 3, 1, 3)
# The nets of the recipes with few channels, by family.
SMALL = {
    "vae": ("latent_size=3", "channels=4", "features=9", "encoder_features=9"),
    "pixelcnn": ("channels=8", "vertical_layers=2", "horizontal_layers=2", "head_channels=11"),
    "masked-pixelcnn": ("size=5", "layers=2", "head_channels=11"),
    "pixelrnn": ("size=5", "layers=2", "head_channels=11"),
    "semi-supervised-vae": ("latent_size=3", "channels=4", "features=9"),
    "autoencoder": ("latent_size=3", "channels=4", "features=9"),
    "gan": ("latent_size=3", "channels=4", "features=9"),
}


def small(name: str, *settings: str) -> Recipe:
    family = next(summary.family for summary in shipped() if summary.name == name)
    return find(name, [f"model.{setting}" for setting in (*SMALL[family], *settings)])


def nets() -> Iterator[tuple[str, Recipe, ImageShape]]:
    yield "odd gaussian", small("digits-vae", "likelihood=gaussian"), ODD
    yield "odd bernoulli", small("digits-vae", "likelihood=bernoulli"), ImageShape(5, 7, 1, 2)
    for name in ("digits-vae", "digits-pixelcnn"):
        mixture = small(name, "likelihood=mixture-of-logistics", "mixtures=3")
        yield f"odd mixture {name}", mixture, ImageShape(5, 3, 3, 200)
    yield "column diagonal-bilstm", small("digits-pixelrnn"), ImageShape(1, 4, 1, 3)
    yield "odd row-lstm", small("digits-pixelrnn", "layer=row-lstm", "label_count=3"), ODD
    for name in ("pixelcnn", "pixelcnn-masked", "pixelrnn", "semi-supervised", "autoencoder", "gan"):
        yield f"odd digits-{name}", small(f"digits-{name}"), ODD


NETS = {name: (recipe, image) for name, recipe, image in nets()}


@pytest.mark.parametrize(("recipe", "shape"), NETS.values(), ids=NETS)
def test_every_role_of_every_family(recipe: Recipe, shape: ImageShape, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: ImageModel = recipe.build(shape)
    graphs = model.graphs()
    export_graphs(graphs, tmp_path)
    for graph in graphs:
        for role in graph_roles(graph):
            feeds = make_feeds(role, random_subjects(model, IMAGES))
            if isinstance(graph, OneShotGraph):
                found = run_role(open_session(tmp_path / role.graph), role, feeds, shape.height)
                for key, value in original_answers(graph, role, feeds).items():
                    np.testing.assert_allclose(found[key].astype(float), value.astype(float), rtol=1e-5, atol=1e-4)
            check(tmp_path / role.graph, role, feeds, shape.height)


def test_the_roles_of_the_zoo() -> None:
    for path in ZOO.glob("*/*/bundle.json"):
        manifest = read_bundle(path.parent).manifest
        golden = dict(np.load(path.parent / manifest.golden.path))
        for role in manifest.roles:
            feeds = {spec.name: golden[f"{role.name}/in/{spec.name}"][:3] for spec in role.inputs}
            check(path.parent / role.graph, role, feeds, manifest.image.height, batches=(3, 7), threads=(1, 3))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize(("axes", "keep"), [([1], 1), ([1], 0), ([1, 2], 0), ([2, 1], 1), ([-1, 1, 2], 0)])
def test_a_reduction_becomes_a_product(op: str, axes: list[int], keep: int) -> None:
    model = reducing(op, axes, TensorProto.FLOAT, keepdims=keep)
    values = np.random.default_rng(0).standard_normal((3, 2, 4, 5), dtype=np.float32)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    assert fix_order(model) == 1
    assert not [node for node in model.graph.node if node.op_type == op]
    assert "axes" not in {tensor.name for tensor in model.graph.initializer}
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert got.shape == wanted.shape


def test_other_reductions_stay_or_are_refused() -> None:
    assert fix_order(reducing("ReduceSum", [2], TensorProto.INT64)) == 0
    assert fix_order(reducing("ReduceMax", [2], TensorProto.FLOAT)) == 0
    for axes in ([0], [2], [1, 3], [0, 1]):
        with pytest.raises(ValueError, match="has no fixed order"):
            fix_order(reducing("ReduceSum", axes, TensorProto.FLOAT))


def reducing(op: str, axes: list[int], dtype: int, keepdims: int = 1) -> onnx.ModelProto:
    """A model of one reduction of [batch,2,4,5]."""
    node = helper.make_node(op, ["x", "axes"], ["y"], name="reduce", keepdims=keepdims)
    inputs = [helper.make_tensor_value_info("x", dtype, ["batch", 2, 4, 5])]
    outputs = [helper.make_tensor_value_info("y", dtype, None)]
    constant = helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes)
    graph = helper.make_graph([node], "g", inputs, outputs, initializer=[constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
