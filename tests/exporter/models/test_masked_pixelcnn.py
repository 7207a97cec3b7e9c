"""The masked PixelCNN: its blind spot, and the row graph samples what the slow sampler samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ancestral_exporter.bundle.runtime import run_role
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.masked_pixelcnn import MaskedPixelCNN, MaskedPixelCNNSettings
from rasters import dependences, feeds_of, raster, torch_feeds


def make_model(shape: ImageShape, **options: Any) -> MaskedPixelCNN:
    """A random model whose pixels depend strongly on each other."""
    torch.manual_seed(0)
    settings = MaskedPixelCNNSettings(**{"size": 6, "layers": 2, "first_window": (2, 3), **options})
    model = MaskedPixelCNN(shape, settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.logits") and name.endswith("bias"):
                parameter.normal_()  # no ties at the first pixel
            elif name.startswith("head.logits"):
                parameter.mul_(16)
            elif "grow" in name:
                parameter.mul_(2)
    return model


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        pytest.param(ImageShape(6, 5, 1, 2), {}, id="binary"),
        pytest.param(
            ImageShape(5, 6, 1, 4), {"one_hot": True, "label_count": 3, "head_channels": 9}, id="grey-one-hot-labels"
        ),
        pytest.param(ImageShape(4, 5, 3, 5), {"label_count": 2, "layers": 1, "first_pixels": 1}, id="colour-labels"),
    ],
)
def test_row_graph_paints_what_naive_sampling_paints(shape: ImageShape, options: dict[str, Any]) -> None:
    model = make_model(shape, **options)
    graph, session = raster(model)
    feeds = feeds_of(graph, shape, 64, model.label_count)
    painted = run_role(session, graph.role, feeds, shape.height)
    given, known, uniforms, temperature, labels = torch_feeds(feeds)
    assert given is not None
    assert known is not None
    assert uniforms is not None
    assert temperature is not None
    naive, naive_scores = model.sample_naive(given, known, uniforms, temperature, labels)
    np.testing.assert_array_equal(painted["row"], naive.numpy())
    np.testing.assert_allclose(painted["log_likelihood"], naive_scores.numpy(), rtol=2e-6, atol=2e-5)
    # The model is sharp, or the test would say little: images cost far less than independent pixels do.
    warm = feeds["temperature"] == 1
    nats = -painted["log_likelihood"][warm] / (~feeds["known"][warm]).sum((1, 2, 3))
    assert nats.mean() < 0.8 * np.log(shape.levels)


def test_logits_depend_on_the_pixels_before_but_for_the_blind_spot() -> None:
    shape = ImageShape(4, 8, 1, 3)
    model = make_model(shape, layers=8, first_window=(1, 3), first_pixels=1)
    seen = dependences(model, model.pixel_features).reshape(4, 8, 4, 8)
    for row, column in np.ndindex(4, 8):
        up = row - np.arange(4)[:, None]
        across = np.arange(8) - column
        # A row up, one column more to the right; to the left all, within so many blocks.
        expected = ((up > 0) & (across <= up)) | ((up == 0) & (across < 0))
        np.testing.assert_array_equal(seen[row, column], expected, err_msg=f"row {row}, column {column}")


def test_a_window_of_even_width_is_refused() -> None:
    with pytest.raises(ValueError, match="first_window must have an odd number of columns, not 4"):
        MaskedPixelCNNSettings(first_window=(2, 4))
